"""The bytes that each piece of a vocabulary stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import attrs
from tokenizers import Tokenizer as Backend


def byte_alphabet() -> dict[str, int]:
    """The characters in which byte-level vocabularies (GPT-2's and all after it) spell bytes: character -> byte.

    Printable Latin-1 stands for itself; the other bytes take the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(rest)}


BYTE_OF: Final = byte_alphabet()
SPELLING: Final = {byte: character for character, byte in BYTE_OF.items()}

#: SentencePiece's stand-in for a space.
SPACE: Final = "\u2581"
_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def spell(text: str) -> str:
    """Text in the byte alphabet."""
    return "".join(SPELLING[byte] for byte in text.encode())


def byte_level(piece: str) -> bytes:
    """Bytes of a piece spelt in the byte alphabet; a piece that is not stands for its own text."""
    try:
        return bytes([BYTE_OF[character] for character in piece])
    except KeyError:
        return piece.encode()


@attrs.frozen
class Spelling:
    """How pieces spell text where each piece adds the same bytes wherever it stands.

    Attributes:
        bytes_of: the bytes that a piece adds.
        opening: what remains of the bytes of a text's first piece.
        dropped: how many spaces at the beginning of a text are left out at most.
        joined: whether ``Tokenizer.decode`` of the library gives other text where bytes are no whole characters.
    """

    bytes_of: Callable[[str], bytes]
    opening: Callable[[bytes], bytes] = bytes
    dropped: int = 0
    joined: bool = False


def spelling_of(backend: Backend) -> Spelling | None:
    """How the pieces of a tokenizer spell text, by its decoder; None where a piece's text depends on its neighbours (WordPiece, and
    vocabularies that mark the ends of words), or where the decoder is not known."""
    steps = [] if backend.decoder is None else _steps(json.loads(backend.decoder.__getstate__()))
    match [step.get("type") for step in steps]:
        case ["ByteLevel"] | ["ByteLevel", "Fuse"]:
            return Spelling(byte_level)
        case ["Metaspace"]:
            sign = str(steps[0].get("replacement", SPACE))
            bare = steps[0].get("prepend_scheme", "always") == "never"
            return Spelling(_replacing([(sign, " ")], fallback=False), bytes if bare else _without_spaces)
        case [*kinds] if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
            return _sentencepiece(steps, kinds)
    return None


def _sentencepiece(steps: list[dict[str, Any]], kinds: list[Any]) -> Spelling | None:
    """SentencePiece's: replace in each piece, read bytes, join, and drop spaces from the beginning of all. None: in another order."""
    fuse = kinds.index("Fuse") if "Fuse" in kinds else -1
    before, after = steps[:fuse], steps[fuse + 1 :]
    pairs = [(step.get("pattern"), step.get("content")) for step in before if step["type"] == "Replace"]
    texts = [(str(pattern["String"]), str(content)) for pattern, content in pairs if isinstance(pattern, dict) and "String" in pattern]
    dropped = [step for step in after if step["type"] == "Strip" and step.get("content") == " " and not step.get("stop")]
    if fuse < 0 or "Strip" in kinds[:fuse] or len(texts) != len(pairs) or len(dropped) != len(after) or len(dropped) > 1:
        return None
    return Spelling(
        _replacing(texts, fallback="ByteFallback" in kinds),
        dropped=int(dropped[0].get("start", 0)) if dropped else 0,
        joined="ByteFallback" in kinds,
    )


def _replacing(pairs: list[tuple[str, str]], *, fallback: bool) -> Callable[[str], bytes]:
    def bytes_of(piece: str) -> bytes:
        if fallback and (found := _BYTE_PIECE.fullmatch(piece)) is not None:
            return bytes([int(found[1], 16)])
        for pattern, content in pairs:
            piece = piece.replace(pattern, content)
        return piece.encode()

    return bytes_of


def _without_spaces(data: bytes) -> bytes:
    return data.replace(b" ", b"")


def _steps(decoder: Any) -> list[dict[str, Any]]:
    """The steps of a decoder, those of sequences within it in their places."""
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") == "Sequence":
        return [step for part in decoder.get("decoders", ()) for step in _steps(part)]
    return [decoder]

"""What one piece of a vocabulary stands for, in bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

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


def sentencepiece(piece: str) -> bytes:
    """Bytes of a SentencePiece piece: ``<0xNN>`` is a byte, the low block a space."""
    found = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else piece.replace(SPACE, " ").encode()


def reader_of(backend: Backend) -> Callable[[str], bytes]:
    """Which of the above a tokenizer's decoder does; pieces of any other decoder stand for their own text."""
    if backend.decoder is None:
        return str.encode
    kinds = set(_kinds(json.loads(backend.decoder.__getstate__())))
    if "ByteLevel" in kinds:
        return byte_level
    if kinds & {"ByteFallback", "Metaspace"} or "Replace" in kinds:
        return sentencepiece
    return str.encode


def _kinds(decoder: Any) -> list[str]:
    if not isinstance(decoder, dict):
        return []
    nested = [kind for part in decoder.get("decoders", ()) for kind in _kinds(part)]
    return [str(decoder.get("type")), *nested]

"""A SentencePiece model: its pieces, and how it brings text into their form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Final

import attrs

from llmasos_tokenizing.charsmap import Charsmap
from llmasos_tokenizing.longest import Longest, any_of
from llmasos_tokenizing.pieces import SPACE

#: ``SentencePiece.Type``, and ``tokenizer.ggml.token_type``.
NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
BYTE: Final = 6

_BYTE_PIECE: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def is_byte(piece: str) -> bool:
    """Whether a piece is spelt as one that stands for a byte."""
    return _BYTE_PIECE.fullmatch(piece) is not None


@attrs.frozen(slots=False)
class SentencePieceModel:
    """A vocabulary and how text is brought into its form.

    Attributes:
        pieces, scores, kinds: of each token id; kinds as ``SentencePiece.Type`` has them.
        is_bpe: whether scores order merges; else they are log probabilities (unigram).
        prefix: whether a text gets a space before it.
        squeeze: whether runs of spaces become one, and those at the ends none.
        charsmap: the rules by which characters are replaced before that; empty where there are none.
    """

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    is_bpe: bool
    prefix: bool
    squeeze: bool
    charsmap: bytes = attrs.field(default=b"", repr=False)

    def of_kind(self, kind: int) -> list[str]:
        """The pieces of one kind, in the order of their ids."""
        return [piece for piece, found in zip(self.pieces, self.kinds, strict=True) if found == kind]

    @cached_property
    def user_defined(self) -> Longest:
        """Finds user-defined pieces."""
        return Longest(self.of_kind(USER_DEFINED))

    def with_unknown(self, parts: Iterable[tuple[str, int | None]]) -> list[int]:
        """The tokens of the parts of a text, each with its token; None for an unknown character.

        A run of unknown characters is one token; where the model has pieces for bytes they are those of their UTF-8 form.
        """
        found: list[int] = []
        unknown_before = False
        for text, token in parts:
            if token is not None:
                found.append(token)
            elif self._bytes:
                found += [each for each in map(self._bytes.get, text.encode()) if each is not None]
            elif self._unknown is not None and not unknown_before:
                found.append(self._unknown)
            unknown_before = token is None
        return found

    @cached_property
    def _unknown(self) -> int | None:
        return self.kinds.index(UNKNOWN) if UNKNOWN in self.kinds else None

    @cached_property
    def _bytes(self) -> dict[int, int]:
        """Byte -> its token, the unknown one where only that byte has none; empty where no byte has any."""
        found = {int(piece[3:5], 16): token for token, piece in enumerate(self.pieces) if self.kinds[token] == BYTE and is_byte(piece)}
        missing = dict.fromkeys(range(256), self._unknown) if found and self._unknown is not None else {}
        return missing | found

    def normalize(self, text: str, *, prefix: bool) -> str:
        """``text`` as pieces spell it (``Normalizer::Normalize`` of SentencePiece); ``prefix``: with a space before it.

        User-defined pieces are left as they are. Leading spaces are those that a rule gives too, and trailing ones also what stands
        for a space, as SentencePiece has it.
        """
        found: list[str] = []
        after_space, begun = self.squeeze, not self.squeeze
        for part, covered in self._parts(text):
            begun = begun or (part != " " if covered else part.strip(" ") != "")
            piece = re.sub(" {2,}", " ", part) if self.squeeze and not covered else part
            piece = piece.lstrip(" ") if after_space else piece
            if piece:
                found.append(piece)
                after_space = self.squeeze and piece.endswith(" ")
        if not text or not begun:
            return ""
        spelt = ((" " if prefix else "") + "".join(found)).replace(" ", SPACE)
        return spelt.rstrip(SPACE) if self.squeeze else spelt

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """What user-defined pieces and rules cover, one by one (True), and the stretches between (False)."""
        place = begin = 0
        while self._stops is not None and (found := self._stops.search(text, place)) is not None:
            place = found.start()
            whole = self.user_defined.at(text, place)
            covered = (whole, len(whole)) if whole is not None else self._rules and self._rules.replacement(text, place)
            if not covered:
                place += 1
                continue
            if place > begin:
                yield text[begin:place], False
            yield covered[0], True
            place = begin = place + covered[1]
        if begin < len(text):
            yield text[begin:], False

    @cached_property
    def _rules(self) -> Charsmap | None:
        return _charsmap(self.charsmap) if self.charsmap else None

    @cached_property
    def _stops(self) -> re.Pattern[str] | None:
        """Finds characters with which user-defined pieces, or what a rule replaces, begin."""
        return any_of(self.user_defined.starts + (self._rules.starts if self._rules else ""))


@lru_cache(maxsize=4)
def _charsmap(blob: bytes) -> Charsmap:
    """The rules of some bytes; models of one family have the same, which take longer to read than all else of a model."""
    return Charsmap(blob)

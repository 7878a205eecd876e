"""The likeliest pieces of a text under a SentencePiece unigram model (Kudo, 2018, arXiv:1804.10959), to the bit of the library's scores.

Runs of one character can be cut in several ways of equal likelihood, and rounding then decides. SentencePiece adds the scores of a path
up in float32, the ``tokenizers`` library in float64, which gives other pieces.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from llmasos_tokenizing.sentencepiece_model import NORMAL, USER_DEFINED, SentencePieceModel

#: How far below the worst piece an unknown character scores.
_UNKNOWN_PENALTY: Final = 10.0
#: What each byte of a user-defined piece but the first scores, which is more than any other piece does.
_USER_DEFINED_BYTE: Final = 0.1
#: Beyond this score all are counted from there anew, or float32 would not tell long paths apart.
_FARTHEST: Final = 100_000.0
#: Of a node of the tree of pieces: its token, which no character is.
_TOKEN: Final = ""


class UnigramSearch:
    """Cuts text that is in the model's form into tokens (``unigram::Model::EncodeOptimized`` of SentencePiece)."""

    def __init__(self, model: SentencePieceModel) -> None:
        normal = [np.float32(score) for score, kind in zip(model.scores, model.kinds, strict=True) if kind == NORMAL]
        self._unknown_score = float(np.float32(min(normal, default=np.float32(0))) - np.float32(_UNKNOWN_PENALTY))
        self._model = model
        self._scores: dict[int, float] = {}
        self._root: dict[str, Any] = {}
        for token, (piece, score, kind) in enumerate(zip(model.pieces, model.scores, model.kinds, strict=True)):
            if kind == NORMAL:
                self._scores[token] = float(np.float32(score))
            elif kind == USER_DEFINED:
                self._scores[token] = float(np.float32(_USER_DEFINED_BYTE * (len(piece.encode()) - 1)))
            else:
                continue
            node = self._root
            for character in piece:
                node = node.setdefault(character, {})
            node[_TOKEN] = token

    def tokens(self, spelt: str) -> list[int]:
        """The tokens of a text."""
        return self._model.with_unknown(self.parts(spelt))

    def parts(self, spelt: str) -> Iterator[tuple[str, int | None]]:
        """The parts of a text, each with its token; None for an unknown character."""
        return ((spelt[start:end], token) for token, start, end in self._path(spelt))

    def _path(self, spelt: str) -> list[tuple[int | None, int, int]]:
        """Tokens of the best path, None for an unknown character, with the beginning and end of each."""
        size = len(spelt)
        scores = array("f", bytes(4 * (size + 1)))
        rounded = array("f", [0.0])  # an assignment rounds to float32, in less time than a scalar of numpy takes
        starts = [-1] * (size + 1)
        tokens: list[int | None] = [None] * (size + 1)
        own = self._scores
        last = 0  # the farthest end of a path
        for start in range(size):
            before, alone = scores[start], False
            if abs(before) > _FARTHEST:
                for place in range(start, last + 1):
                    scores[place] -= before if place == start or starts[place] >= 0 else 0.0
                before = 0.0
            node, end = self._root, start
            while end < size and (child := node.get(spelt[end])) is not None:
                node, end = child, end + 1
                token = node.get(_TOKEN)
                if token is None:
                    continue
                alone = alone or end == start + 1
                rounded[0] = own[token] + before
                if starts[end] < 0 or rounded[0] > scores[end]:
                    scores[end], starts[end], tokens[end] = rounded[0], start, token
                last = max(last, end)
            if not alone:
                end = start + 1
                rounded[0] = self._unknown_score + before
                if starts[end] < 0 or rounded[0] > scores[end]:
                    scores[end], starts[end], tokens[end] = rounded[0], start, None
                last = max(last, end)
        found: list[tuple[int | None, int, int]] = []
        end = size
        while end:
            found.append((tokens[end], starts[end], end))
            end = starts[end]
        return found[::-1]

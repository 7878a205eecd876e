"""Byte-pair encoding by scores, as SentencePiece does it: the two neighbours whose joint piece scores highest are joined, the leftmost
of those that score alike.

The ``tokenizers`` library joins by an order of pairs, whatever their places, which is the same while no two pieces score alike.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from llmasos_tokenizing.sentencepiece_model import NORMAL, UNUSED, USER_DEFINED, SentencePieceModel


def ordered_by_scores(model: SentencePieceModel, merges: list[tuple[str, str]]) -> bool:
    """Whether the order of the ``merges`` that scores imply decides everything: no two pieces that are joined score alike, and no unused
    piece comes up."""
    score_of = dict(zip(model.pieces, model.scores, strict=True))
    joined = {left + right for left, right in merges}
    unused = any(len(piece) == 1 or piece in joined for piece in model.of_kind(UNUSED))
    return not unused and len({score_of[piece] for piece in joined}) == len(joined)


class ScoredPairs:
    """Cuts text that is in the model's form into tokens (``bpe::Model::SampleEncode`` of SentencePiece).

    A piece that is marked as unused is joined as any other and taken apart again at the end; what is left of it is unknown.
    """

    def __init__(self, model: SentencePieceModel) -> None:
        kinds = dict(zip(model.pieces, model.kinds, strict=True))
        self._ids = {piece: token for token, piece in enumerate(model.pieces) if kinds[piece] in (NORMAL, USER_DEFINED)}
        joins = (NORMAL, USER_DEFINED, UNUSED)
        self._scores = {piece: score for piece, score in zip(model.pieces, model.scores, strict=True) if kinds[piece] in joins}
        self._unused = {piece for piece, kind in kinds.items() if kind == UNUSED}
        self._model = model

    def tokens(self, spelt: str) -> list[int]:
        """The tokens of a text that holds no user-defined piece."""
        return self._model.with_unknown(self.parts(spelt))

    def parts(self, spelt: str) -> Iterator[tuple[str, int | None]]:
        """The parts of a text, each with its token; None for an unknown one."""
        pieces, halves = self._joined(spelt)
        return ((part, self._ids.get(part)) for piece in pieces for part in self._apart(piece, halves))

    def _joined(self, spelt: str) -> tuple[list[str], dict[str, tuple[str, str]]]:
        """The pieces that no two neighbours can be joined of, and what unused ones were made of."""
        symbols = list(spelt)
        before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
        pairs: list[tuple[float, int, int, int]] = []  # minus the score, both places, the length of both together
        halves: dict[str, tuple[str, str]] = {}

        def add(left: int, right: int) -> None:
            if left < 0 or right < 0 or (score := self._scores.get(joint := symbols[left] + symbols[right])) is None:
                return
            heapq.heappush(pairs, (-score, left, right, len(joint)))
            if joint in self._unused:
                halves[joint] = (symbols[left], symbols[right])

        for place in range(1, len(symbols)):
            add(place - 1, place)
        while pairs:
            _, left, right, length = heapq.heappop(pairs)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of them has been joined to another since
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            add(before[left], left)
            add(left, after[left])
        return [symbol for symbol in symbols if symbol], halves

    def _apart(self, piece: str, halves: dict[str, tuple[str, str]]) -> list[str]:
        """``piece``, or what it was made of where it is unused."""
        found, stack = [], [piece]
        while stack:
            each = stack.pop()
            if each in self._unused and each in halves:
                stack += reversed(halves[each])
            else:
                found.append(each)
        return found

"""Prompt lookup decoding: speculative decoding with draft tokens from earlier text.

Text that is rewritten, summarised or edited repeats much of its prompt. Where the last few tokens have occurred before, the tokens that
followed them then are the draft. One step computes the logits of the whole draft, and the leading draft tokens that sampling confirms are
accepted. After Saxena: Prompt Lookup Decoding, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Default maximum of draft tokens a step: verifying twelve takes about twice the time of generating one.
DEFAULT_DRAFT: Final = 12
#: Draft tokens a step before any draft token was accepted.
_FIRST: Final = 3
#: Steps without a draft after one that was rejected whole: at first, and at most.
_PAUSES: Final = (8, 64)
#: Lengths in tokens of the endings that are looked up, the longest first: after a longer match a draft is accepted more often.
_ENDINGS: Final = (4, 3, 2)


class PromptLookup:
    """An index of the n-grams of one sequence, which grows with it.

    Verifying a draft token costs less than generating it, but not nothing. So drafts become shorter, then rarer, while they are rejected,
    and longer again while they are accepted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = min(_FIRST, most)
        self._pause = 0
        self._next_pause = _PAUSES[0]
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most ``most`` draft tokens to follow ``tokens``; none where their ending is new, or recent drafts were rejected."""
        if self._pause:
            self._pause -= 1
            return ()
        self._index(tokens)
        length = min(most, self._length)
        for size in _ENDINGS:
            position = self._after.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if position is not None:
                period = len(tokens) - position  # a draft that reaches the end goes on with its own beginning
                return tuple(tokens[position + offset % period] for offset in range(length))
        return ()

    def checked(self, drafted: int, right: int) -> None:
        """Record that the first ``right`` of ``drafted`` draft tokens were accepted."""
        if right:
            self._next_pause = _PAUSES[0]
        if right == drafted:
            self._length = min(self._most, 2 * drafted)
        elif right:
            self._length = min(self._most, right + 1)
        elif self._length > 1:
            self._length = max(1, self._length // 2)
        else:
            self._pause = self._next_pause
            self._next_pause = min(2 * self._pause, _PAUSES[1])

    def _index(self, tokens: Sequence[int]) -> None:
        """Index the new tokens: for each n-gram, where the token after it stands."""
        for end in range(max(self._indexed, min(_ENDINGS)), len(tokens)):
            for size in _ENDINGS:
                if end >= size:
                    self._after[tuple(tokens[end - size : end])] = end
        self._indexed = len(tokens)

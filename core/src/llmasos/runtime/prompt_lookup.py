"""Guessing the next tokens from earlier text: prompt lookup decoding.

Text that is rewritten, summarised or edited repeats much of its prompt. Where the last few tokens have occurred before, what followed
them then is a draft of what follows now; one step checks all of it, and as many tokens are kept as sampling gives anyway. After Saxena:
Prompt Lookup Decoding, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Tokens drafted a step at most where nobody says how many: checking twelve costs about twice the time of generating one.
DEFAULT_DRAFT: Final = 12
#: Tokens drafted before any draft has proved right.
_FIRST: Final = 3
#: Steps without a draft after one that was all wrong: at first, and at most.
_PAUSES: Final = (8, 64)
#: Lengths of the endings that are looked up, the longest first: a longer match is more likely to go on alike.
_ENDINGS: Final = (4, 3, 2)


class PromptLookup:
    """An index of the endings of one sequence, which grows with it.

    Checking a token costs less than generating it but not nothing, so drafts become shorter while they prove wrong, then rarer, and
    longer again while they prove right.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = min(_FIRST, most)
        self._pause = 0
        self._next_pause = _PAUSES[0]
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most ``most`` tokens that may follow ``tokens``; none where their ending is new, or drafts have been wrong of late."""
        if self._pause:
            self._pause -= 1
            return ()
        self._index(tokens)
        length = min(most, self._length)
        for size in _ENDINGS:
            place = self._after.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if place is not None:
                period = len(tokens) - place  # a draft that reaches the end goes on with its own beginning
                return tuple(tokens[place + offset % period] for offset in range(length))
        return ()

    def checked(self, drafted: int, right: int) -> None:
        """Of ``drafted`` tokens the first ``right`` were right."""
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
        """Note where each ending before the last was followed by what."""
        for end in range(max(self._indexed, min(_ENDINGS)), len(tokens)):
            for size in _ENDINGS:
                if end >= size:
                    self._after[tuple(tokens[end - size : end])] = end
        self._indexed = len(tokens)

"""What a detector is: it says where in a text its kind of data may begin, and where it ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import attrs

#: Characters before a place that detectors may look at.
CONTEXT: Final = 64


def run(body: re.Pattern[str], text: str, place: int, end: int) -> int:
    """Where the characters of ``body`` that begin at ``place`` end."""
    found = body.match(text, place, end)
    return place if found is None else found.end()


def _letter(character: str) -> bool:
    return character.isascii() and character.isalnum()


@attrs.frozen(kw_only=True, eq=False)
class Detector:
    """Finds data of a kind. What it says of a place depends on the ``CONTEXT`` characters before it and on the characters of ``body`` that
    follow it without a break, at most ``limit`` of them; so the decision is the same in a stream as soon as another character, or enough
    of them, have come.

    Attributes:
        kind: one of ``KINDS``.
        start: matches the first character of a place where data may begin; looks at one character, and before it.
        body: matches as many characters as could be data; the data ends within them, and the decision falls where they end.
        limit: characters that the data has at most.
        end: ``(text, place, stop) -> end`` of the data that begins at ``place``, or -1; it must not look at or beyond ``stop``.
        after: whether what stands before a place allows data there: gets the text and the place.
        rest: what belongs to data that is as long as ``limit`` and goes on; ``body`` where it is None.
        separate: whether data that is followed by a letter or digit of ASCII is none.
    """

    kind: str
    start: re.Pattern[str]
    body: re.Pattern[str]
    limit: int
    end: Callable[[str, int, int], int]
    after: Callable[[str, int], bool] = lambda _text, _place: True
    rest: re.Pattern[str] | None = None
    separate: bool = True

    def starts(self, text: str, place: int) -> int:
        """The first place at or behind ``place`` where data may begin; the length of the text where there is none."""
        while (found := self.start.search(text, place)) is not None:
            if self.after(text, found.start()):
                return found.start()
            place = found.start() + 1
        return len(text)

    def next(self, text: str, place: int, *, final: bool) -> tuple[int, int]:
        """``(start, end)`` of the first data at or behind ``place``, where ``end`` is -1 if more text decides whether there is data.

        Both are the length of the text where there is none.
        """
        while (place := self.starts(text, place)) < len(text):
            stop = run(self.body, text, place, min(place + self.limit, len(text)))
            if stop == len(text) and stop - place < self.limit and not final:
                return place, -1
            end = self.end(text, place, stop)
            # The character behind the data is known, unless the data has as many as ``limit``.
            if end > place and not (self.separate and end - place < self.limit and end < len(text) and _letter(text[end])):
                return place, end
            place += 1
        return len(text), len(text)

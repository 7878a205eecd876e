"""Longest-match search: finds the longest of many strings at a position, in time that does not grow with their number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from operator import itemgetter


class Longest:
    """Finds texts of a set in a text; empty ones are left out.

    Attributes:
        starts: the characters with which they begin.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = {*texts}
        self._texts.discard("")
        lengths: dict[str, set[int]] = {}
        for first, length in set(zip(map(itemgetter(0), self._texts), map(len, self._texts), strict=True)):
            lengths.setdefault(first, set()).add(length)
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._places = any_of("".join(self._lengths))

    @property
    def starts(self) -> str:
        return "".join(self._lengths)

    def at(self, text: str, place: int) -> str | None:
        """The longest that stands at ``place``; None where none does."""
        for length in self._lengths.get(text[place], ()):
            if (found := text[place : place + length]) in self._texts:
                return found
        return None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Beginning and end of each that is found from left to right, none within another."""
        place = 0
        while self._places is not None and (start := self._places.search(text, place)) is not None:
            found = self.at(text, start.start())
            place = start.start() + (len(found) if found else 1)
            if found:
                yield start.start(), place


def any_of(characters: str) -> re.Pattern[str] | None:
    """Finds any of some characters; None where there are none."""
    return re.compile(f"[{re.escape(characters)}]") if characters else None

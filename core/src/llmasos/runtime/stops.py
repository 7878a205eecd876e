"""Stop strings, found across token borders."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Lets text through until one of the ``stops`` appears.

    The longest end of the text that could still become a stop is held back, so that no part of a stop ever gets out. Of
    stops that appear in the same piece the leftmost wins, and of those at one place the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted(set(stops), key=len, reverse=True))
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to show, and the stop that ended it, if one did."""
        if not self._stops:
            return text, None
        text = self._held + text
        found = [(place, -len(stop), stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, _, stop = min(found)
            self._held = ""
            return text[:place], stop
        held = self._open_end(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], None

    def flush(self) -> str:
        """What was held back, once it is certain that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _open_end(self, text: str) -> int:
        """Length of the longest end of ``text`` with which some stop begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0

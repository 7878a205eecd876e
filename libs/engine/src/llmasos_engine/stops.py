"""Stop strings, also across token borders."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Passes text on until one of the ``stops`` appears.

    The longest suffix of the text that could still become a stop string is held back, so that no part of a stop string is emitted. Of
    several in the same piece the leftmost wins, and of those at the same position the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted(set(stops), key=len, reverse=True))
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that can be emitted, and the stop string that ended it, or None."""
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
        """The text that was held back, when no more text follows."""
        held, self._held = self._held, ""
        return held

    def _open_end(self, text: str) -> int:
        """Length of the longest suffix of ``text`` that is a prefix of a stop string."""
        for length in range(min(len(self._stops[0]) - 1, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0

"""Where a list or an object of JSON ends, character by character."""

from __future__ import annotations


class Nesting:
    """Follows what its first character opens; brackets within strings count for nothing."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def closes(self, character: str) -> bool:
        """Whether this next character closes what the first one opened."""
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = False
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return not self._depth
        return False

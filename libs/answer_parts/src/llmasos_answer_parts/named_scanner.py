"""One call whose name stands by itself, before an object of its arguments, character by character."""

from __future__ import annotations

from collections.abc import Collection


class NamedScanner:
    """Reads a name between ``head`` and ``separator``, and the object after it, which is told unchanged while it is written.

    Attributes: as ``CallScanner`` has them.
    """

    def __init__(self, names: Collection[str], head: str, separator: str) -> None:
        """``names``: of the functions that there are; a call of another is broken."""
        self._openings = {f"{head}{name}{separator}": name for name in names}
        self.name: str | None = None
        self.begun = False
        self.done = False
        self.broken = False
        self._opening = ""
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._named = False

    def push(self, character: str) -> str:
        """The arguments' text that can be told after ``character``."""
        if self.name is None:
            self._opening += character
            self.name = self._openings.get(self._opening)
            self.broken = self.name is None and not any(each.startswith(self._opening) for each in self._openings)
            return ""
        if not self.begun:
            self.begun, self.broken = character == "{", character != "{" and not character.isspace()
            if not self.begun:
                return ""
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
            self.done = not self._depth
        return character

    def end(self) -> str:
        """The arguments' text that was kept back, where the call is cut: none."""
        return ""

    def told_name(self) -> str:
        """The name, once."""
        name = "" if self._named or self.name is None else self.name
        self._named = True
        return name

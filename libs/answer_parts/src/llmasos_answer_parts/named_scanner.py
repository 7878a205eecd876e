"""One call whose name stands by itself, before an object of its arguments, character by character."""

from __future__ import annotations

from collections.abc import Collection

from llmasos_answer_parts.nesting import Nesting


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
        self._nesting = Nesting()
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
        self.done = self._nesting.closes(character)
        return character

    def end(self) -> str:
        """The arguments' text that was kept back, where the call is cut: none."""
        return ""

    def told_name(self) -> str:
        """The name, once."""
        name = "" if self._named or self.name is None else self.name
        self._named = True
        return name

"""One call, character by character: the JSON object with a name and arguments, which are told while they are written."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from llmasos_answer_parts.nesting import Nesting

_NAME: Final = "name"
#: The form says under which of these a template has them; models take the other one now and then.
_ARGUMENTS: Final = ("arguments", "parameters")


class CallScanner:
    """Reads one object.

    The arguments are told as the model writes them, unchanged; where it wrote them as a string that holds JSON, what the string holds.

    Attributes:
        name: of the function; None until it is complete.
        begun: the name is known and the arguments have begun.
        done: the object is complete.
        broken: it is no JSON object of that kind.
    """

    def __init__(self, names: Collection[str]) -> None:
        """``names``: of the functions that there are; a call of another is broken."""
        self._names = names
        self.name: str | None = None
        self.begun = False
        self.done = False
        self.broken = False
        self._read = self._first
        self._key: Any = None
        self._token: list[str] = []
        self._escaped = False
        self._nesting = Nesting()
        self._telling = False  # what is nested is the arguments
        self._seen = False  # the arguments
        self._kept: list[str] = []  # of the arguments, until the name is known
        self._named = False

    def push(self, character: str) -> str:
        """The arguments' text that can be told after ``character``."""
        self._read(character)
        if self.done and self.name is None:
            self.broken = True
        if self.done and not self._seen:
            self._take("{}")
        if self.name is None or not self._kept or self.broken:
            return ""
        self.begun = True
        return self._rest()

    def end(self) -> str:
        """The arguments' text that was kept back, where the object is cut."""
        if self._read == self._scalar and self._is_arguments():
            self._kept += self._token
        return self._rest()

    def told_name(self) -> str:
        """The name, once."""
        name = "" if self._named or self.name is None else self.name
        self._named = True
        return name

    def _rest(self) -> str:
        text = "".join(self._kept)
        self._kept.clear()
        return text

    def _take(self, text: str) -> None:
        self._seen = True
        self._kept.append(text)

    def _first(self, character: str) -> None:
        self.broken = character != "{"
        self._read = self._member

    def _member(self, character: str) -> None:
        """Between members."""
        if character == '"':
            self._token, self._read = ['"'], self._in_key
        elif character == "}":
            self.done = True
        elif character != "," and not character.isspace():
            self.broken = True

    def _in_key(self, character: str) -> None:
        if self._ends_string(character):
            self._key, self._read = self._string(), self._colon

    def _colon(self, character: str) -> None:
        if character == ":":
            self._read = self._value
        elif not character.isspace():
            self.broken = True

    def _value(self, character: str) -> None:
        """Before a value."""
        if character.isspace():
            return
        if character == '"':
            self._token, self._read = ['"'], self._in_string
        elif character in "{[":
            self._nesting, self._telling, self._read = Nesting(), self._is_arguments(), self._nested
            self._nested(character)
        else:
            self._token, self._read = [character], self._scalar

    def _in_string(self, character: str) -> None:
        if not self._ends_string(character):
            return
        text = self._string()
        if self._key == _NAME and isinstance(text, str) and self.name is None:
            self.name, self.broken = text, text not in self._names
        elif self._is_arguments():
            self._take(text)
        self._read = self._member

    def _nested(self, character: str) -> None:
        """In a list or an object."""
        if self._telling:
            self._take(character)
        if self._nesting.closes(character):
            self._read = self._member

    def _scalar(self, character: str) -> None:
        """In a number or a word."""
        if character not in ",}" and not character.isspace():
            self._token.append(character)
            return
        if self._is_arguments():
            self._take("".join(self._token))
        self._read = self._member
        self._member(character)

    def _is_arguments(self) -> bool:
        """Whether the value of this key is the arguments; the first is."""
        return self._key in _ARGUMENTS and not self._seen

    def _ends_string(self, character: str) -> bool:
        self._token.append(character)
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        else:
            return character == '"'
        return False

    def _string(self) -> Any:
        try:
            return json.loads("".join(self._token), strict=False)
        except ValueError:
            self.broken = True
            return ""

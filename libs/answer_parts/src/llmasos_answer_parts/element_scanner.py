"""One call as elements, character by character: ``<function=NAME>``, in it ``<parameter=NAME>`` with a value for each argument.

The arguments are told as JSON. Texts are told while they are written; other values when they are whole, because what is none is a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Final

_PARAMETER: Final = "<parameter="
_FUNCTION_END: Final = "</function>"
_VALUE_END: Final = "</parameter>"


class ElementScanner:
    """Reads one element of a function.

    A line break after a parameter's opening, and one before its end, belong to neither value nor text.

    Attributes: as ``CallScanner`` has them.
    """

    def __init__(self, names: Collection[str], values: Mapping[str, Collection[str]]) -> None:
        """``names``: of the functions that there are; a call of another is broken. ``values``: of each, its parameters whose values are
        JSON; those of others are texts."""
        self._openings = {f"<function={name}>": name for name in names}
        self._values = values
        self.name: str | None = None
        self.begun = False
        self.done = False
        self.broken = False
        self._held = ""
        self._read: Callable[[], str] = self._function
        self._named = False
        self._parameters = 0
        self._is_text = True
        self._first = False  # nothing of the value was read

    def push(self, character: str) -> str:
        """The arguments' text that can be told after ``character``."""
        self._held += character
        return self._read()

    def end(self) -> str:
        """The arguments' text that was kept back, where the call is cut."""
        held, self._held = self._held, ""
        if self._read != self._value:
            return ""
        return _escaped(held) if self._is_text else held

    def told_name(self) -> str:
        """The name, once."""
        name = "" if self._named or self.name is None else self.name
        self._named = True
        return name

    def _function(self) -> str:
        self.name = self._openings.get(self._held)
        if self.name is None:
            self.broken = not any(each.startswith(self._held) for each in self._openings)
            return ""
        self.begun, self._held, self._read = True, "", self._between
        return "{"

    def _between(self) -> str:
        """Before a parameter, or the function's end."""
        held = self._held.lstrip()
        if held == _FUNCTION_END:
            self.done = True
            return "}"
        if held.startswith(_PARAMETER):
            if not held.endswith(">"):
                self.broken = "\n" in held
                return ""
            parameter = held[len(_PARAMETER) : -1]
            self._is_text = parameter not in self._values.get(self.name or "", ())
            self._held, self._read, self._first = "", self._value, True
            self._parameters += 1
            return f"{', ' if self._parameters > 1 else ''}{json.dumps(parameter, ensure_ascii=False)}: {chr(34) if self._is_text else ''}"
        self.broken = not (_FUNCTION_END.startswith(held) or _PARAMETER.startswith(held))
        return ""

    def _value(self) -> str:
        if self._first:
            self._first = False
            if self._held == "\n":
                self._held = ""
                return ""
        if self._held.endswith(_VALUE_END):
            value = self._held.removesuffix(_VALUE_END).removesuffix("\n")
            self._held, self._read = "", self._between
            return f'{_escaped(value)}"' if self._is_text else _as_json(value)
        if not self._is_text:
            return ""
        known = len(self._held) - _open_end(self._held)
        told, self._held = self._held[:known], self._held[known:]
        return _escaped(told)


def _open_end(text: str) -> int:
    """How many characters at the end of ``text`` may be what ends a value: a line break and a beginning of its mark."""
    for length in range(min(len(_VALUE_END), len(text)), 0, -1):
        if text.endswith(_VALUE_END[:length]):
            return length + text[:-length].endswith("\n")
    return int(text.endswith("\n"))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(value: str) -> str:
    try:
        json.loads(value)
    except ValueError:
        return json.dumps(value, ensure_ascii=False)
    return value

"""Placeholders, and the values that they stand for."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from llmasos_guard_privacy.kinds import KINDS
from llmasos_guard_privacy.scan import Replaced, Scan

#: Stands for a placeholder while a text is scanned: a noncharacter of Unicode, which is part of no data.
_MARK: Final = "\ufdd0"
#: Digits of a number at most.
_DIGITS: Final = 9

#: ``(kind, placeholder) -> text``: what takes the place of a placeholder that a text holds.
Written = Callable[[str, str], str]


class Placeholders:
    """The placeholders of one text, or of a conversation: the same value has the same number.

    Attributes:
        values: by placeholder, what can be put back.
    """

    def __init__(self, form: str) -> None:
        self._form: Final = form
        self._numbers: Final[dict[str, dict[str, int]]] = {}
        self.values: Final[dict[str, str]] = {}

    def of(self, kind: str, value: str, whole: bool = True) -> str:
        """The placeholder of a value. One with line breaks, a private key, would break the JSON of a call's arguments, and of one that is
        not ``whole`` the rest is lost: they are not put back."""
        numbers = self._numbers.setdefault(kind, {})
        found = self._filled(kind, numbers.setdefault(value, len(numbers) + 1))
        if whole and value.isprintable():
            self.values[found] = value
        return found

    def value(self, _kind: str, placeholder: str) -> str:
        """The value of a placeholder; itself where it has none."""
        return self.values.get(placeholder, placeholder)

    def own(self, kind: str, placeholder: str) -> str:
        """A placeholder as it is where it is one of these; else it is a text like any other, and gets one."""
        return placeholder if placeholder in self.values else self.of(kind, placeholder)

    def known(self, kind: str, value: str, whole: bool = True) -> str:
        """The placeholder of a value that has one; of others that with the number 0, which stands for none."""
        return self._filled(kind, self._numbers.get(kind, {}).get(value, 0))

    def answer(self) -> Replaced:
        """What takes the place of data in an answer: known values pass, and what the model writes of itself is redacted, by numbers that
        no other answer knows."""
        own = Placeholders(self._form)
        own._numbers.update((kind, dict(numbers)) for kind, numbers in self._numbers.items())
        return lambda kind, value, whole: self.value(kind, own.of(kind, value, whole))

    def _filled(self, kind: str, number: int) -> str:
        return self._form.replace("{kind}", kind.upper()).replace("{number}", str(number))


class Form:
    """How a text shows that it holds a placeholder.

    Attributes:
        first: the character that each begins with.
        longest: characters of one at most.
        pattern: of one, with the group ``kind``; and of the mark, which must not be taken for one of the guard's.
    """

    def __init__(self, form: str) -> None:
        kinds = [kind.upper() for kind in KINDS]
        before, between, behind = (re.escape(part) for part in re.split(r"\{kind\}|\{number\}", form))
        self.first: Final = form[0]
        self.longest: Final = len(form) + max(map(len, kinds)) + _DIGITS
        self.pattern: Final = re.compile(rf"{before}(?P<kind>{'|'.join(kinds)}){between}\d{{1,{_DIGITS}}}{behind}|{_MARK}")


class Reversible:
    """A text whose placeholders are taken out before it is scanned, so that none is taken for data, and replaced behind that."""

    def __init__(self, form: Form, scan: Scan, written: Written) -> None:
        """``scan`` must not block; ``written``: what takes the place of placeholders."""
        self._form = form
        self._scan = scan
        self._written = written
        self._held = ""
        self._waiting: deque[str] = deque()  # for each mark in the scan, what takes its place

    def push(self, piece: str) -> str:
        """What may be shown now; what could become a placeholder is kept back."""
        text = self._held + piece
        parts, place = list[str](), 0
        for found in self._form.pattern.finditer(text):
            parts += text[place : found.start()], _MARK
            kind = found["kind"]
            self._waiting.append(_MARK if kind is None else self._written(kind.lower(), found[0]))
            place = found.end()
        held = text.find(self._form.first, max(place, len(text) - self._form.longest + 1))
        end = len(text) if held < 0 else held
        self._held = text[end:]
        return self._scanned("".join((*parts, text[place:end])))

    def end(self) -> str:
        """The rest."""
        return self._scanned(self._held) + self._filled(self._scan.end())

    def _scanned(self, text: str) -> str:
        return self._filled(self._scan.push(text)) if text else ""

    def _filled(self, released: object) -> str:
        return re.sub(_MARK, lambda _: self._waiting.popleft(), cast("str", released))

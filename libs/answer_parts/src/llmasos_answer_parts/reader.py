"""An answer's text, piece by piece, to its parts: reasoning, text and calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from llmasos_answer_parts.call_forms import CallForm
from llmasos_answer_parts.call_scanner import CallScanner
from llmasos_answer_parts.element_scanner import ElementScanner
from llmasos_answer_parts.named_scanner import NamedScanner
from llmasos_answer_parts.parts import CallPart, Part, ReasoningPart, TextPart, joined, open_end
from llmasos_answer_parts.reasoning import Marks, ReasoningState

#: The beginning of a call that is a whole answer, and the texts that can become it.
_CALL: Final = re.compile(r'\s*\{\s*"name"\s*:')
_MAY_BE_CALL: Final = re.compile(r'\s*(\{\s*("(n(a(m(e("\s*)?)?)?)?)?)?)?')


class AnswerReader:
    """Splits one answer. The texts of parts of one kind, joined, and each call's arguments are the same wherever the pieces are cut.

    White space around reasoning and calls belongs to none of them. What looks like a call and is none, or one of a function that is not
    offered, is text, marks included. An answer that ends in the middle of arguments gives those that there are.

    Args:
        form: of calls; None: there are none.
        names: functions that may be called.
        marks: of reasoning; None: there is none.
        state: where the answer begins.
        values: of each function, its parameters whose values are JSON, for forms that write texts otherwise.

    Attributes:
        state: where the reasoning stands.
    """

    def __init__(
        self,
        form: CallForm | None = None,
        names: Collection[str] = (),
        marks: Marks | None = None,
        state: ReasoningState = "after",
        values: Mapping[str, Collection[str]] = {},
    ) -> None:
        self._form = form
        self._values = values
        self._names = frozenset(names)
        self._marks = marks
        self._held = ""
        self._calls = 0
        self._scanner: CallScanner | NamedScanner | ElementScanner | None = None
        self._raw = ""  # of a call that has not begun for the reader's caller yet
        self._listed = False
        self._trims = False  # white space before the next text is dropped
        starts = {"before": self._before, "inside": self._inside, "after": self._opening}
        self._next: Callable[[list[Part]], bool] = self._opening if marks is None else starts[state]

    @property
    def state(self) -> ReasoningState:
        return "before" if self._next == self._before else "inside" if self._next == self._inside else "after"

    def push(self, text: str) -> list[Part]:
        """The parts that ``text`` completes."""
        self._held += text
        found: list[Part] = []
        while self._held and self._next(found):
            pass
        return joined(found)

    def end(self) -> list[Part]:
        """The parts that were kept back, when no more text follows."""
        found: list[Part] = []
        if self._scanner is not None and self._scanner.begun:
            found += self._arguments(self._scanner.end())
        elif self._next not in (self._closing, self._following):  # what follows a call may be a part of its mark
            self._told(found, ReasoningPart if self.state == "inside" else TextPart, self._raw + self._held)
        self._held = self._raw = ""
        self._scanner = None
        return joined(found)

    # Each reads what it can of ``_held``, and returns whether the next may go on.

    def _before(self, found: list[Part]) -> bool:
        """Reasoning may be opened."""
        assert self._marks is not None
        begun = self._held.lstrip()
        if begun.startswith(self._marks.open):
            self._held = begun.removeprefix(self._marks.open)
            self._trims, self._next = True, self._inside
            return True
        if self._marks.open.startswith(begun):
            return False
        self._next = self._opening
        return True

    def _inside(self, found: list[Part]) -> bool:
        """In reasoning."""
        assert self._marks is not None
        text, closed, rest = self._held.partition(self._marks.close)
        if closed:
            self._told(found, ReasoningPart, text.rstrip())
            self._held = rest
            self._trims, self._next = True, self._opening
            return True
        self._tell(found, ReasoningPart, self._marks.close)
        return False

    def _opening(self, found: list[Part]) -> bool:
        """At the first text, which is a call by itself where the form has no mark."""
        if self._form is not None and not self._form.begin:
            if _CALL.match(self._held):
                self._next = self._call
                return True
            if _MAY_BE_CALL.fullmatch(self._held):
                return False
        self._next = self._text
        return True

    def _text(self, found: list[Part]) -> bool:
        """In text."""
        if self._form is None or not self._form.begin:
            self._told(found, TextPart, self._held)
            self._held = ""
            return False
        text, begun, rest = self._held.partition(self._form.begin)
        if begun:
            kept = text.rstrip()
            self._told(found, TextPart, kept)
            self._raw, self._held = text[len(kept) :] + begun, rest
            self._next = self._call
            return True
        self._tell(found, TextPart, self._form.begin)
        return False

    def _call(self, found: list[Part]) -> bool:
        """Between the mark and a call's object, or a list's next one."""
        between = self._listed and self._calls > 0  # what stands between calls is no text
        for place, character in enumerate(self._held):
            if character.isspace() or (between and character == ","):
                continue
            self._raw, self._held = self._raw + ("" if between else self._held[:place]), self._held[place:]
            if character == "{" or (self._form is not None and self._form.written != "object"):
                self._scanner = self._new_scanner()
                self._next = self._object
            elif character == "[" and not self._listed and self._form is not None and self._form.begin:
                self._listed = True
                self._raw, self._held = self._raw + character, self._held[1:]
            elif character == "]" and self._listed:
                self._held, self._next = self._held[1:], self._closing
                self._listed, self._raw = False, ""
            else:
                self._no_call(found)
            return True
        self._raw, self._held = self._raw + ("" if between else self._held), ""
        return False

    def _new_scanner(self) -> CallScanner | NamedScanner | ElementScanner:
        if self._form is not None and self._form.written == "named":
            return NamedScanner(self._names, self._form.head, self._form.separator)
        if self._form is not None and self._form.written == "elements":
            return ElementScanner(self._names, self._values)
        return CallScanner(self._names)

    def _object(self, found: list[Part]) -> bool:
        """In a call's object, or what stands for it."""
        scanner = self._scanner
        assert scanner is not None
        for place, character in enumerate(self._held, start=1):
            arguments = scanner.push(character)
            if scanner.begun:
                found += self._arguments(arguments)
            if scanner.broken or scanner.done:
                self._raw, self._held = self._raw + self._held[:place], self._held[place:]
                break
        else:
            self._raw = "" if scanner.begun else self._raw + self._held
            self._held = ""
            return False
        self._scanner = None
        if not scanner.begun:
            self._no_call(found)
            return True
        self._raw = ""
        self._calls, self._trims = self._calls + 1, True
        self._next = self._call if self._listed and not scanner.broken else self._closing
        return True

    def _closing(self, found: list[Part]) -> bool:
        """After a call."""
        end = "" if self._form is None else self._form.end.lstrip()
        rest = self._held.lstrip()
        if end and not rest.startswith(end) and end.startswith(rest):
            return False
        if rest:
            self._held, self._next = rest.removeprefix(end), self._following if rest.startswith(end) else self._text
        return bool(rest)

    def _following(self, found: list[Part]) -> bool:
        """After a call's end: another call, the end of all, or a text."""
        form, rest = self._form, self._held.lstrip()
        if form is None or not form.again:
            self._next = self._text
        elif rest.startswith(form.again):
            self._raw, self._held, self._next = form.again, rest.removeprefix(form.again), self._call
        elif rest.startswith(form.close):
            self._held, self._next = rest.removeprefix(form.close), self._text
        elif form.again.startswith(rest) or form.close.startswith(rest):
            return False
        else:
            self._next = self._text
        return True

    def _no_call(self, found: list[Part]) -> None:
        """What looked like a call is text."""
        self._told(found, TextPart, self._raw)
        self._raw, self._listed = "", False
        self._next = self._text

    def _arguments(self, text: str) -> list[Part]:
        assert self._scanner is not None
        name = self._scanner.told_name()
        return [CallPart(self._calls, name, text)] if name or text else []

    def _tell(self, found: list[Part], kind: type[TextPart | ReasoningPart], mark: str) -> None:
        """Tell ``_held`` but for its end that may be the mark's beginning, and for white space before that."""
        known = self._held[: len(self._held) - open_end(self._held, mark)].rstrip()
        self._told(found, kind, known)
        self._held = self._held[len(known) :]

    def _told(self, found: list[Part], kind: type[TextPart | ReasoningPart], text: str) -> None:
        if self._trims:
            text = text.lstrip()
        if text:
            self._trims = False
            found.append(kind(text))

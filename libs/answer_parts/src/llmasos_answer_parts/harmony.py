"""Answers of gpt-oss: messages of one turn, each on a channel (https://github.com/openai/harmony): reasoning, text, and a call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from llmasos_answer_parts.parts import CallPart, Part, ReasoningPart, TextPart, joined, open_end
from llmasos_answer_parts.reasoning import ReasoningState

_START: Final = "<|start|>"
_MESSAGE: Final = "<|message|>"
#: What begins a header, where a message is begun; and what ends a message.
_HEADERS: Final = (_START, "<|channel|>", "assistant", "to=")
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", _START)
#: Longest header: one that does not end is a text.
_LONGEST: Final = 512


class HarmonyReader:
    """Splits one answer, as ``AnswerReader`` does.

    The channel ``analysis`` is reasoning, a message to a function its call, and what else there is text: the channel ``final``, and what
    the model says before a call. An answer without any header is text.

    Attributes:
        state: where the reasoning stands.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        """``names``: functions that may be called; a message to another is text, with its header."""
        self._names = frozenset(names)
        self._held = ""
        self._calls = 0
        self._tell: Callable[[str], Part] = TextPart
        self._told = ""  # of a call's arguments
        self._next: Callable[[list[Part]], bool] = self._header
        self.state: ReasoningState = "before"

    def push(self, text: str) -> list[Part]:
        """The parts that ``text`` completes."""
        self._held += text
        found: list[Part] = []
        while self._held and self._next(found):
            pass
        return joined(found)

    def end(self) -> list[Part]:
        """The parts that were kept back, when no more text follows. A header that is cut is none."""
        found: list[Part] = []
        if self._next == self._body:
            self._give(found, self._held)
            self._ended(found)
        self._held = ""
        return joined(found)

    def _header(self, found: list[Part]) -> bool:
        """Before a message's body."""
        begun = self._held.lstrip()
        header, closed, rest = self._held.partition(_MESSAGE)
        if not any(begun.startswith(each) or each.startswith(begun) for each in _HEADERS) or len(header) > _LONGEST:
            self.state, self._tell, self._next = "after", TextPart, self._body
            return True
        if not closed:
            return False
        self._held, self._next = rest, self._body
        called = re.search(r"to=functions\.([^\s<]+)", header)
        if called is not None and called[1] in self._names:
            self.state, self._tell = "after", self._arguments
            found.append(CallPart(self._calls, called[1], ""))
        elif called is not None:
            self.state, self._tell = "after", TextPart
            found.append(TextPart(header + _MESSAGE))
        elif "<|channel|>analysis" in header:
            self.state, self._tell = "inside", ReasoningPart
        else:
            self.state, self._tell = "after", TextPart
        return True

    def _body(self, found: list[Part]) -> bool:
        places = [place for end in _ENDS if (place := self._held.find(end)) >= 0]
        if not places:
            known = len(self._held) - max(open_end(self._held, end) for end in _ENDS)
            self._give(found, self._held[:known])
            self._held = self._held[known:]
            return False
        self._give(found, self._held[: min(places)])
        self._ended(found)
        rest = self._held[min(places) :]
        self._held = rest if rest.startswith(_START) else rest.split("|>", 1)[1]
        self._next = self._header
        return True

    def _give(self, found: list[Part], text: str) -> None:
        if text:
            found.append(self._tell(text))

    def _ended(self, found: list[Part]) -> None:
        """The message is over."""
        if self._tell == self._arguments:
            if not self._told:
                found.append(CallPart(self._calls, "", "{}"))
            self._calls, self._told = self._calls + 1, ""
        self._tell, self.state = TextPart, "after"

    def _arguments(self, text: str) -> Part:
        self._told += text
        return CallPart(self._calls, "", text)

"""Guards by name: what they return is checked, their errors name them, and how long a call takes can be seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from llmasos_hookspecs import Allow, Block, Blocked, Guard, GuardRecord, GuardStream, Passage, PluginError, Replace, Stage
from llmasos_hookspecs.guarding.edge import crossing, kind_of

R = TypeVar("R")


class Calls:
    """The call of a guard that a thread is in: the thread alone writes it, others look whether it takes too long."""

    def __init__(self, timeout: float) -> None:
        self.timeout: Final = timeout
        self._now: tuple[float, str] | None = None

    def call(self, label: str, where: str, function: Callable[[], R]) -> R:
        """Call a guard. Raises an error that names it for whatever it raises."""
        self._now = (time.monotonic(), label)
        try:
            with crossing(label, where):
                return function()
        finally:
            self._now = None

    def left(self, now: float) -> float:
        """Seconds that the call may still take."""
        current = self._now
        return self.timeout if current is None else current[0] + self.timeout - now

    def stalled(self) -> PluginError:
        """The error of a call that took too long."""
        current = self._now
        label = "guard" if current is None else current[1]
        return PluginError(
            f"The {label} did not answer within {self.timeout:g} seconds (resources.guard_timeout), so its text did not pass."
        )


@attrs.frozen
class NamedGuard:
    """A guard, how messages name it, and its name in config."""

    label: str
    guard: Guard
    name: str = ""

    def check(self, text: str, passage: Passage, calls: Calls) -> str | Block:
        """What passes of a whole text."""
        verdict = calls.call(self.label, "check", lambda: self.guard.check(text, passage))
        if isinstance(verdict, Allow):
            return text
        if isinstance(verdict, Replace) and isinstance(verdict.text, str):
            return verdict.text
        if isinstance(verdict, Block):
            return verdict
        raise PluginError(f"The {self.label} returned {kind_of(verdict)} from check, which is no verdict; this is a fault of the plugin.")

    def open(self, passage: Passage, calls: Calls) -> GuardStream:
        """A stream for an answer; it keeps the whole answer back where the guard has none of its own."""
        opened = getattr(self.guard, "open", None)
        if opened is None:
            return _WholeText(self, passage, calls)
        stream: GuardStream = calls.call(self.label, "open", lambda: opened(passage))
        return _NamedStream(self.label, stream, calls)

    def fired(self, passage: Passage, outcome: str) -> GuardRecord:
        """What is told where it changed or blocked a text."""
        return GuardRecord(guard=self.name, stage=passage.stage, outcome=outcome, model=passage.model, tenant=passage.tenant)


class _NamedStream:
    """A guard's own stream; its errors name the guard."""

    def __init__(self, label: str, stream: GuardStream, calls: Calls) -> None:
        self._label = label
        self._stream = stream
        self._calls = calls

    def push(self, piece: str) -> str | Block:
        return self._checked("push", self._calls.call(self._label, "push", lambda: self._stream.push(piece)))

    def end(self) -> str | Block:
        return self._checked("end", self._calls.call(self._label, "end", lambda: self._stream.end()))

    def _checked(self, where: str, found: Any) -> str | Block:
        if not isinstance(found, str | Block):
            raise PluginError(f"The {self._label} returned {kind_of(found)} from {where}, and it must be text or a Block.")
        return found


class _WholeText:
    """The stream of a guard that has none: everything is kept back until the answer is complete."""

    def __init__(self, guard: NamedGuard, passage: Passage, calls: Calls) -> None:
        self._guard = guard
        self._passage = passage
        self._calls = calls
        self._kept: list[str] = []

    def push(self, piece: str) -> str:
        self._kept.append(piece)
        return ""

    def end(self) -> str | Block:
        return self._guard.check("".join(self._kept), self._passage, self._calls)


def blocked(label: str, stage: Stage, block: Block, text: str) -> Blocked:
    """The error of a request that a guard blocks; ``text``: what was released of an answer."""
    what = {"input": "prompt", "output": "answer", "tool_call": "call of a tool", "tool_result": "result of a tool"}[stage]
    return Blocked(f"The {label} blocked the {what}: {block.reason}.", stage=stage, reason=block.reason, text=text)

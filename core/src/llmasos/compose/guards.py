"""The guards of a pipeline: prompts pass them before they are encoded, answers while they are written.

Whole and streamed answers take the same way, so that they are equal. A guard that raises, stalls or returns something else ends the request
with an error that names it; nothing passes unseen.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs

from llmasos.engine.ticket import Ticket
from llmasos_chat_templates.messages import checked_messages
from llmasos_hookspecs import (
    Allow,
    Block,
    Blocked,
    EngineFailed,
    Generation,
    Guard,
    GuardStream,
    LLMasOSError,
    ModelClosed,
    Passage,
    PluginError,
    Prompt,
    Replace,
    Stage,
)
from llmasos_hookspecs.guarding.changes import Changes
from llmasos_hookspecs.guarding.edge import crossing, kind_of
from llmasos_hookspecs.guarding.watchdog import watchdog

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
    """A guard, and how messages name it."""

    label: str
    guard: Guard

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


class Guards:
    """All guards of a pipeline, in the order of its config. False where there is none."""

    def __init__(self, guards: Sequence[NamedGuard] = (), *, timeout: float = 30.0) -> None:
        """``timeout``: seconds that one call of a guard may take."""
        self._guards = tuple(guards)
        self._timeout = timeout

    def __bool__(self) -> bool:
        return bool(self._guards)

    def text(self, text: str, passage: Passage) -> str:
        """What passes of a whole text. Raises ``Blocked``, or ``PluginError`` where a guard fails."""
        return self._bounded(lambda calls: self._text(text, passage, calls))

    def prompt(self, prompt: Prompt, model: str, tenant: str) -> Prompt:
        """What passes of a prompt: its text, or each text of its messages, those of tools and the arguments of calls as such.

        Raises as ``text`` does, and ``RequestError`` where the prompt is none.
        """
        if not self._guards or (isinstance(prompt, str) and not prompt):
            return prompt
        if isinstance(prompt, str):
            return self.text(prompt, Passage(stage="input", model=model, tenant=tenant))
        messages = checked_messages(prompt)
        return self._bounded(lambda calls: [self._message(message, model, tenant, calls) for message in messages])

    def answer(self, ticket: Ticket[Generation], model: str, tenant: str) -> Ticket[Generation]:
        """The ticket of an answer that passes the guards while it is written; ``ticket`` itself where none looks at answers."""
        looking = [each for each in self._guards if "output" in each.guard.stages]
        if not looking:
            return ticket
        return GuardedAnswer(looking, ticket, Passage(stage="output", model=model, tenant=tenant), self._timeout).outer

    def _message(self, message: dict[str, Any], model: str, tenant: str, calls: Calls) -> dict[str, Any]:
        role = message["role"]

        def passed(text: str, stage: Stage) -> str:
            return self._text(text, Passage(stage=stage, model=model, tenant=tenant, role=role), calls) if text else text

        content = message["content"]
        if isinstance(content, str):
            content = passed(content, "tool_result" if role == "tool" else "input")
        else:  # with images, which no guard reads
            content = [{**part, "text": passed(part["text"], "input")} if part["type"] == "text" else part for part in content]
        found = {**message, "content": content}
        if message.get("tool_calls"):
            found["tool_calls"] = [_with_arguments(call, lambda text: passed(text, "tool_call")) for call in message["tool_calls"]]
        return found

    def _text(self, text: str, passage: Passage, calls: Calls) -> str:
        for each in self._guards:
            if passage.stage in each.guard.stages:
                found = each.check(text, passage, calls)
                if isinstance(found, Block):
                    raise _blocked(each.label, passage.stage, found, "")
                text = found
        return text

    def _bounded(self, work: Callable[[Calls], R]) -> R:
        """The result of ``work`` on a thread of its own, which is left behind where a guard stalls."""
        calls = Calls(self._timeout)
        results: list[R] = []
        errors: list[BaseException] = []
        changes = Changes()

        def run() -> None:
            try:
                results.append(work(calls))
            except BaseException as error:
                errors.append(error)
            with changes.lock:
                changes.tell()

        threading.Thread(target=run, name="llmasos-guard", daemon=True).start()
        while not changes.wait_for(lambda: bool(results or errors), max(0.0, calls.left(time.monotonic()))):
            if calls.left(time.monotonic()) <= 0:
                raise calls.stalled()
        if errors:
            raise errors[0]
        return results[0]


class GuardedAnswer:
    """An answer on its way through guards, on a daemon thread of its own: a guard may take its time, and the engine's loop may not.

    Attributes:
        outer: the ticket of what passes. Cancelling it cancels the request.
    """

    def __init__(self, guards: Sequence[NamedGuard], inner: Ticket[Generation], passage: Passage, timeout: float) -> None:
        self.outer: Final[Ticket[Generation]] = Ticket(inner.id, inner.cancel, inner.deadline)
        self._inner = inner
        self._guards = guards
        self._passage = passage
        self._calls = Calls(timeout)
        self._released: list[str] = []
        _answers.add(self)
        threading.Thread(target=self._run, name=f"llmasos-guard-{inner.id}", daemon=True).start()
        watchdog().wake(self)

    def look(self, now: float) -> bool:
        """Called by the watchdog: fail the answer where a guard stalls."""
        if not self.outer.done and self._calls.left(now) <= 0:
            self.outer.fail(self._calls.stalled())
            self._inner.cancel()
        return not self.outer.done

    def _run(self) -> None:
        try:
            streams = [each.open(self._passage, self._calls) for each in self._guards]
            for piece in self._inner:
                if self.outer.done:  # a guard stalled, and came back
                    return
                self._pass(streams, piece, final=False)
            generation = self._inner.result()
            self._pass(streams, "", final=True)
            self.outer.finish(self._changed(generation))
        except LLMasOSError as error:
            self.outer.fail(error)
        except Exception as error:
            self.outer.fail(EngineFailed(f"The guards of request {self._inner.id} failed, and its answer is lost: {error!r}."))
        finally:
            self._inner.cancel()

    def _pass(self, streams: Sequence[GuardStream], text: str, *, final: bool) -> None:
        """Push ``text`` through the streams and release what comes out; ``final``: end them too. Raises ``Blocked``."""
        blocked: tuple[str, Block] | None = None
        for each, stream in zip(self._guards, streams, strict=True):
            found = _pushed(stream, text, end=final or blocked is not None)
            if isinstance(found, Block):
                # What an earlier guard let pass before its own block is looked at by the later ones, and each of them may block it first.
                blocked, text = (each.label, found), found.text
            else:
                text = found
        if text:
            self._released.append(text)
            self.outer.emit(text)
        if blocked is not None:
            raise _blocked(blocked[0], self._passage.stage, blocked[1], "".join(self._released))

    def _changed(self, generation: Generation) -> Generation:
        """The generation with the text that passed. Its tokens are left out where they would tell another text."""
        text = "".join(self._released)
        return generation if text == generation.text else attrs.evolve(generation, text=text, tokens=(), logprobs=None)

    def after_fork(self) -> None:
        """In a forked child, where the thread does not exist."""
        self.outer.after_fork(ModelClosed("The request was sent before this process was forked, and its thread stayed in the parent."))


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


def _pushed(stream: GuardStream, text: str, *, end: bool) -> str | Block:
    """What a stream releases for ``text`` and, with ``end``, at its end."""
    found = stream.push(text) if text else ""
    if isinstance(found, Block) or not end:
        return found
    last = stream.end()
    return attrs.evolve(last, text=found + last.text) if isinstance(last, Block) else found + last


def _with_arguments(call: dict[str, Any], passed: Callable[[str], str]) -> dict[str, Any]:
    """A call of a tool with the arguments that pass: guards see them as the text of a JSON object."""
    function = call["function"]
    text = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    found = passed(text)
    if found == text:
        return call
    try:
        arguments = json.loads(found)
    except ValueError as error:
        raise PluginError(
            f"A guard replaced the arguments of a tool's call by what is no JSON ({error}); this is a fault of the guard."
        ) from error
    return {**call, "function": {**function, "arguments": arguments}}


def _blocked(label: str, stage: Stage, block: Block, text: str) -> Blocked:
    what = {"input": "prompt", "output": "answer", "tool_call": "call of a tool", "tool_result": "result of a tool"}[stage]
    return Blocked(f"The {label} blocked the {what}: {block.reason}.", stage=stage, reason=block.reason, text=text)


_answers: weakref.WeakSet[GuardedAnswer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for answer in list(_answers):
        answer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""The guards of a pipeline: prompts pass them before they are encoded, answers while they are written.

Whole and streamed answers take the same way, so that they are equal. A guard that raises, stalls or returns something else ends the request
with an error that names it; nothing passes unseen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from llmasos_chat_templates.messages import checked_messages
from llmasos_engine.ticket import Ticket
from llmasos_guards.guarded_answer import GuardedAnswer, Relay
from llmasos_guards.named_guard import Calls, NamedGuard, blocked
from llmasos_hookspecs import Block, Conversation, Generation, GuardRecord, Passage, PluginError, Prompt, Stage
from llmasos_hookspecs.guarding.changes import Changes
from llmasos_plugin_calls.workers import Workers

R = TypeVar("R")


class Guards:
    """All guards of a pipeline, in the order of its config. False where there is none."""

    def __init__(
        self, guards: Sequence[NamedGuard] = (), *, timeout: float = 30.0, fired: Callable[[GuardRecord], None] | None = None
    ) -> None:
        """``timeout``: seconds that one call of a guard may take. ``fired`` is told of each text that one changes or blocks."""
        self._guards = tuple(guards)
        self._timeout = timeout
        self._fired = fired or (lambda _: None)
        # Any number: one whose guard stalls never comes back, and the texts of others pass all the same.
        self._workers = Workers(sys.maxsize, "llmasos-guard")
        self._relay = Relay(self._workers)

    def __bool__(self) -> bool:
        return bool(self._guards)

    def text(self, text: str, passage: Passage) -> str:
        """What passes of a whole text. Raises ``Blocked``, or ``PluginError`` where a guard fails."""
        return self._bounded(lambda calls: self._text(text, passage, calls))

    def prompt(self, prompt: Prompt, model: str, tenant: str, conversation: Conversation | None = None) -> Prompt:
        """What passes of a prompt: its text, or each text of its messages, those of tools and the arguments of calls as such;
        ``conversation``: of the request.

        Raises as ``text`` does, and ``RequestError`` where the prompt is none.
        """
        if not self._guards or (isinstance(prompt, str) and not prompt):
            return prompt
        whole = Passage(stage="input", model=model, tenant=tenant, conversation=conversation)
        if isinstance(prompt, str):
            return self.text(prompt, whole)
        messages = checked_messages(prompt)
        return self._bounded(lambda calls: [self._message(message, whole, calls) for message in messages])

    def conversation(self, messages: Sequence[Mapping[str, Any]], model: str, tenant: str) -> Conversation:
        """What guards keep of a request with these messages, which are told to nobody as having passed. Raises as ``prompt`` does."""
        found = Conversation()
        Guards(self._guards, timeout=self._timeout).prompt(messages, model, tenant, found)
        return found

    def answer(self, ticket: Ticket[Generation], model: str, tenant: str, conversation: Conversation) -> Ticket[Generation]:
        """The ticket of an answer that passes the guards while it is written; ``ticket`` itself where none looks at answers."""
        looking = [each for each in self._guards if "output" in each.guard.stages]
        if not looking:
            return ticket
        passage = Passage(stage="output", model=model, tenant=tenant, conversation=conversation)
        return GuardedAnswer(looking, ticket, passage, self._timeout, self._relay, self._fired).outer

    def _message(self, message: dict[str, Any], whole: Passage, calls: Calls) -> dict[str, Any]:
        role = message["role"]

        def passed(text: str, stage: Stage) -> str:
            return self._text(text, attrs.evolve(whole, stage=stage, role=role), calls) if text else text

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
                if found != text:
                    self._fired(each.fired(passage, "blocked" if isinstance(found, Block) else "replaced"))
                if isinstance(found, Block):
                    raise blocked(each.label, passage.stage, found, "")
                text = found
        return text

    def _bounded(self, work: Callable[[Calls], R]) -> R:
        """The result of ``work`` on a thread, which is left behind where a guard stalls."""
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

        self._workers.do(run)
        while not changes.wait_for(lambda: bool(results or errors), max(0.0, calls.left(time.monotonic()))):
            if calls.left(time.monotonic()) <= 0:
                raise calls.stalled()
        if errors:
            raise errors[0]
        return results[0]


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

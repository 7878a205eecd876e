"""Responses that a task answers, with tools that run here: those of clients which bring none of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from llmasos_hookspecs import FinishEvent, LLMasOSError, TaskCall, TaskEvent, TaskOutput, TextEvent, UsageEvent
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.asked import Collected
from llmasos_serve_http.call import Call
from llmasos_serve_http.failures import Refused, failure_of
from llmasos_serve_http.fields import flag, model_of
from llmasos_serve_http.keeping import send_parts
from llmasos_serve_http.openai.approvals import Approvals
from llmasos_serve_http.openai.assisted_bodies import brings_tools, inputs_of
from llmasos_serve_http.openai.assisted_rendering import AssistedRendering
from llmasos_serve_http.routes import Service


class Assisted:
    """Answers with the task that the option ``assistant`` names."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering
        self._approvals: Final = Approvals()

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Whether the task answers a request: it brings no tools of its own, and does not refuse those that are here."""
        return bool(self._service.options.assistant) and not brings_tools(body) and body.get("tool_choice") != "none"

    async def answer(self, call: Call, body: Mapping[str, Any]) -> None:
        """Answer a request, whole or in events, each as it happens."""
        owner = (call.known.tenant, call.known.name)
        inputs, turn = inputs_of(body, self._service.options.temperature, self._approvals, owner)
        rendering = AssistedRendering(call.id, body, self._approvals, owner, turn.requests)
        name = model_of(body) or self._service.options.assistant
        events = self._service.runtime.task_events(call.known, self._service.options.assistant, inputs, model=model_of(body))
        if not flag(body, "stream"):
            output = await self._answering.attended(call, _drained(events, rendering))
            await call.reply(rendering.whole(name, Collected(pieces=(), usage=_usage(output), finishes=(_finish(output),))))
            return
        try:
            await self._answering.attended(call, self._stream(call, name, rendering, events))
        except (Refused, LLMasOSError) as error:
            if not call.started:
                raise
            failure = failure_of(error)
            call.facts.code = failure.code
            await call.part(rendering.failed(failure))
            await call.end()

    async def _stream(self, call: Call, name: str, rendering: AssistedRendering, events: AsyncGenerator[TaskEvent, None]) -> None:
        """Send what happens."""
        parts = _parts(name, rendering, events)
        await send_parts(call, parts, rendering.media_type, rendering.comment, self._service.options.comment_every)
        await call.end()


async def _parts(name: str, rendering: AssistedRendering, events: AsyncGenerator[TaskEvent, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(events):
        event = await anext(events)
        yield rendering.head(name)
        while not isinstance(event, TaskOutput):
            yield _part(rendering, event)
            event = await anext(events)
    yield rendering.text_of(event.output) + rendering.end(_usage(event.output), [_finish(event.output)])


async def _drained(events: AsyncGenerator[TaskEvent, None], rendering: AssistedRendering) -> Mapping[str, Any]:
    """The output, once all has happened."""
    async with contextlib.aclosing(events):
        while not isinstance(event := await anext(events), TaskOutput):
            _part(rendering, event)
    output: Mapping[str, Any] = event.output
    rendering.text_of(output)
    return output


def _part(rendering: AssistedRendering, event: str | TaskCall) -> bytes:
    return rendering.piece(TextEvent(text=event)) if isinstance(event, str) else rendering.call(event)


def _usage(output: Mapping[str, Any]) -> UsageEvent:
    return UsageEvent(prompt_tokens=output.get("prompt_tokens", 0), cached_tokens=0, generated_tokens=output.get("generated_tokens", 0))


def _finish(output: Mapping[str, Any]) -> FinishEvent:
    return FinishEvent(reason="stop" if output.get("finish_reason", "stop") in ("stop", "confirm") else "length")

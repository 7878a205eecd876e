"""Responses that a task answers, with tools that run here: those of clients which bring none of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmasos_hookspecs import FinishEvent, LLMasOSError, RequestError, TextEvent, UsageEvent
from llmasos_serve_http.answering import STREAM_HEADERS, Answering
from llmasos_serve_http.asked import Collected
from llmasos_serve_http.call import Call
from llmasos_serve_http.failures import Refused, failure_of
from llmasos_serve_http.fields import flag, model_of
from llmasos_serve_http.openai.response_bodies import check_fields, messages_of
from llmasos_serve_http.openai.response_rendering import ResponseRendering
from llmasos_serve_http.openai.sampling import sampling_of
from llmasos_serve_http.routes import Service

#: Sampling that the task takes.
_SAMPLING: Final = ("temperature", "top_p", "seed")
#: What a client gives back of an answer, and is told again in the text that followed it.
_PASSED_OVER: Final = ("mcp_call", "mcp_list_tools")
#: How tools that run on a server are labelled.
_LABEL: Final = "llmasos"


class Assisted:
    """Answers with the task that the option ``assistant`` names."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Whether the task answers a request: it brings no tools, and does not refuse those that are here."""
        return bool(self._service.options.assistant) and not body.get("tools") and body.get("tool_choice") != "none"

    async def answer(self, call: Call, body: Mapping[str, Any]) -> None:
        """Answer a request, whole or in events, which come when the task is done."""
        inputs = _inputs(body, self._service.options.temperature)
        rendering = ResponseRendering(call.id, body)
        name = model_of(body) or self._service.options.assistant
        running = self._service.runtime.arun(call.known, self._service.options.assistant, inputs, model=model_of(body))
        if not flag(body, "stream"):
            output = await self._answering.attended(call, running)
            _items(rendering, output)
            await call.reply(rendering.whole(name, Collected(pieces=_said(output), usage=_usage(output), finishes=(_finish(output),))))
            return
        try:
            await self._answering.attended(call, self._stream(call, name, rendering, asyncio.ensure_future(running)))
        except (Refused, LLMasOSError) as error:
            if not call.started:
                raise
            failure = error.failure if isinstance(error, Refused) else failure_of(error)
            call.facts.code = failure.code
            await call.part(rendering.failed(failure))
            await call.end()

    async def _stream(self, call: Call, name: str, rendering: ResponseRendering, running: asyncio.Future[Mapping[str, Any]]) -> None:
        try:
            while not (await asyncio.wait((running,), timeout=self._service.options.comment_every))[0]:
                await _begun(call, rendering)
                await call.part(rendering.comment)
            output = await running
        finally:
            running.cancel()
        await _begun(call, rendering)
        await call.part(rendering.head(name) + _items(rendering, output))
        await call.part(b"".join(rendering.piece(event) for event in _said(output)))
        await call.part(rendering.end(_usage(output), [_finish(output)]))
        await call.end()


async def _begun(call: Call, rendering: ResponseRendering) -> None:
    if not call.started:
        await call.begin(rendering.media_type, headers=STREAM_HEADERS)


def _inputs(body: Mapping[str, Any], temperature: float) -> dict[str, Any]:
    """The task's inputs. Raises ``RequestError`` for what it does not take."""
    check_fields(body)
    given = body.get("input")
    if isinstance(given, list):
        body = {**body, "input": [each for each in given if not (isinstance(each, Mapping) and each.get("type") in _PASSED_OVER)]}
    *earlier, last = messages_of(body)
    for message in (*earlier, last):
        if message["role"] not in ("system", "user", "assistant") or "tool_calls" in message:
            raise RequestError("input holds calls of tools of the client, and the assistant of this server has its own.", "input")
    if last["role"] != "user":
        raise RequestError("The last item of input must be a message of the user.", "input")
    sampling = sampling_of(body, temperature)
    for name in (*(sampling.keys() - set(_SAMPLING)), *(name for name in ("chat_template_kwargs",) if name in body)):
        raise RequestError(f"{name} is nothing that the assistant of this server takes; leave it out.", name)
    text = body.get("text") or {}
    if text.get("format", {"type": "text"}) != {"type": "text"} if isinstance(text, Mapping) else True:
        raise RequestError("The assistant of this server answers in text; leave text.format out.", "text.format")
    found = {
        "message": last["content"],
        "messages": [{"role": each["role"], "content": each["content"]} for each in earlier],
        "tool_choice": _choice(body.get("tool_choice")),
        **sampling,
    }
    return found if body.get("max_output_tokens") is None else {**found, "max_new_tokens": body["max_output_tokens"]}


def _choice(choice: Any) -> str:
    match choice:
        case None | "auto":
            return "auto"
        case "required":
            return "required"
        case {"type": "mcp" | "function", "name": str() as name}:
            return name
    raise RequestError('tool_choice must be "auto", "none", "required", or {"type": "mcp", "name": "..."}.', "tool_choice")


def _items(rendering: ResponseRendering, output: Mapping[str, Any]) -> bytes:
    """The calls, as those of a server's tools."""
    return b"".join(
        rendering.item(
            "mcp",
            {
                "type": "mcp_call",
                "server_label": _LABEL,
                "name": call["tool"],
                "arguments": orjson.dumps(call["arguments"]).decode(),
                "status": "failed" if call["error"] else "completed",
                "output": None if call["error"] else call["result"],
                "error": _error(call["result"]) if call["error"] else None,
            },
        )
        for call in output.get("calls", ())
    )


def _error(sentence: str) -> dict[str, Any]:
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": sentence}]}


def _said(output: Mapping[str, Any]) -> tuple[TextEvent]:
    return (TextEvent(text=output["text"]),)


def _usage(output: Mapping[str, Any]) -> UsageEvent:
    return UsageEvent(prompt_tokens=output.get("prompt_tokens", 0), cached_tokens=0, generated_tokens=output.get("generated_tokens", 0))


def _finish(output: Mapping[str, Any]) -> FinishEvent:
    return FinishEvent(reason="stop" if output.get("finish_reason", "stop") == "stop" else "length")

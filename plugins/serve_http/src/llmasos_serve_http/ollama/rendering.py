"""Answers as Ollama's: lines of JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from llmasos_hookspecs import FinishEvent, PartEvent, ReasoningEvent, TextEvent, ToolCallEvent, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.asked import Collected, ToolCall, calls_of
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.ollama.dialect import OllamaDialect

DIALECT: Final = OllamaDialect()


def chat_parts(text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    """Where an answer of ``/api/chat`` has its parts. A call has its arguments as an object, so one that was cut is left out."""
    functions = [{"id": call.id, "function": {"name": call.name, "arguments": call.input}} for call in calls if call.complete]
    more = ({"thinking": thinking} if thinking else {}) | ({"tool_calls": functions} if functions else {})
    return {"message": {"role": "assistant", "content": text, **more}}


def generate_parts(text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    """Where an answer of ``/api/generate`` has its parts; it calls no tools."""
    return {"response": text, **({"thinking": thinking} if thinking else {})}


class LineRendering:
    """One answer, whole or in lines. A silent stream gets nothing: the protocol has no comments."""

    media_type = "application/x-ndjson"
    comment = b""
    progress = None

    def __init__(self, holds: Callable[..., dict[str, Any]]) -> None:
        self._holds = holds
        self._model = ""
        self._begun = time.monotonic_ns()
        self._first: int | None = None
        self._call: list[ToolCallEvent] = []

    def head(self, model: str) -> bytes:
        self._model = model
        return b""

    def piece(self, event: PartEvent) -> bytes:
        self._first = self._first or time.monotonic_ns()
        match event:
            case TextEvent(text=text):
                return self._called() + (self._part(text) if text else b"")
            case ReasoningEvent(text=text):
                return self._called() + self._part("", text)
            case ToolCallEvent(name=name):  # a call is told whole
                called = self._called() if name else b""
                self._call.append(event)
                return called

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        (finish,) = finishes
        return self._called() + _line(self._ended(self._holds(""), usage, finish))

    def failed(self, failure: Failure) -> bytes:
        return _line(DIALECT.error(failure))

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        self._model = model
        one = answer.answer
        return self._ended(self._holds(one.text, one.reasoning, one.calls), answer.usage, one.finish)

    def _called(self) -> bytes:
        """The call whose pieces came."""
        calls, self._call = calls_of(self._call), []
        return self._part("", "", calls) if any(call.complete for call in calls) else b""

    def _part(self, *parts: Any) -> bytes:
        return _line(self._common() | self._holds(*parts) | {"done": False})

    def _common(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}

    def _ended(self, parts: Mapping[str, Any], usage: UsageEvent, finish: FinishEvent) -> dict[str, Any]:
        now = time.monotonic_ns()
        first = self._first or now
        return {
            **self._common(),
            **parts,
            "done": True,
            "done_reason": "length" if finish.reason == "length" else "stop",
            "total_duration": now - self._begun,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first - self._begun,
            "eval_count": usage.generated_tokens,
            "eval_duration": now - first,
        }


def _line(data: Mapping[str, Any]) -> bytes:
    return sse.one_line(data) + b"\n"

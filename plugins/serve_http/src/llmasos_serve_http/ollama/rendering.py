"""Answers as Ollama's: lines of JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from llmasos_hookspecs import FinishEvent, TextEvent, UsageEvent
from llmasos_serve_http.asked import Collected
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.ollama.dialect import OllamaDialect

DIALECT: Final = OllamaDialect()


def chat_text(text: str) -> dict[str, Any]:
    """Where an answer of ``/api/chat`` has its text."""
    return {"message": {"role": "assistant", "content": text}}


def generate_text(text: str) -> dict[str, Any]:
    """Where an answer of ``/api/generate`` has its text."""
    return {"response": text}


class LineRendering:
    """One answer, whole or in lines. A silent stream gets nothing: the protocol has no comments."""

    media_type = "application/x-ndjson"
    comment = b""

    def __init__(self, holds: Callable[[str], dict[str, Any]]) -> None:
        self._holds = holds
        self._model = ""
        self._begun = time.monotonic_ns()
        self._first: int | None = None

    def head(self, model: str) -> bytes:
        self._model = model
        return b""

    def piece(self, event: TextEvent) -> bytes:
        self._first = self._first or time.monotonic_ns()
        return _line(self._common() | self._holds(event.text) | {"done": False}) if event.text else b""

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        (finish,) = finishes
        return _line(self._ended("", usage, finish))

    def failed(self, failure: Failure) -> bytes:
        return _line(DIALECT.error(failure))

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        self._model = model
        return self._ended(answer.text, answer.usage, answer.finish)

    def _common(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}

    def _ended(self, text: str, usage: UsageEvent, finish: FinishEvent) -> dict[str, Any]:
        now = time.monotonic_ns()
        first = self._first or now
        return {
            **self._common(),
            **self._holds(text),
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
    return orjson.dumps(data) + b"\n"

"""Answers as Anthropic's messages, whole or in events (https://docs.anthropic.com/en/api/messages-streaming)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import FinishEvent, PartEvent, ReasoningEvent, TextEvent, ToolCallEvent, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.anthropic.dialect import AnthropicDialect
from llmasos_serve_http.asked import Collected, WholeAnswer
from llmasos_serve_http.failures import Failure

DIALECT: Final = AnthropicDialect()
_REASONS: Final = {"length": "max_tokens", "blocked": "refusal"}
_TEXT: Final = {"type": "text", "text": ""}
#: No signature is needed: clients send their whole conversation, and reasoning in it is believed.
_THINKING: Final = {"type": "thinking", "thinking": "", "signature": ""}


class MessageRendering:
    """One answer as a message, whole or in events. A block is opened where its first piece comes; an answer has at least one."""

    media_type = sse.MEDIA_TYPE
    comment = sse.COMMENT
    progress = None

    def __init__(self, call_id: str) -> None:
        self._id = f"msg_{call_id}"
        self._blocks = 0
        self._open: tuple[str, int] | None = None  # the kind of the block that is open, and the number of its call
        self._called = False
        self._deltas: sse.TextEvents  # of the block that is open

    def head(self, model: str) -> bytes:
        message = self._message(model, [], None, None, {"input_tokens": 0, "output_tokens": 0})
        return _event({"type": "message_start", "message": message})

    def piece(self, event: PartEvent) -> bytes:
        match event:
            case TextEvent(text=""):  # tokens without text, which end an answer
                return b""
            case TextEvent(text=text):
                return self._delta(("text", 0), _TEXT, "text_delta", "text", text)
            case ReasoningEvent(text=text):
                return self._delta(("thinking", 0), _THINKING, "thinking_delta", "thinking", text)
            case ToolCallEvent(call=number, id=call, name=name, arguments=arguments):
                self._called = True
                block = {"type": "tool_use", "id": call, "name": name, "input": {}}
                return self._delta(("tool_use", number), block, "input_json_delta", "partial_json", arguments)

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        (finish,) = finishes
        begun = b"" if self._blocks else self._begin(("text", 0), _TEXT)
        delta = {"stop_reason": _reason(finish, self._called), "stop_sequence": finish.stop}
        return (
            begun
            + self._stop()
            + _event({"type": "message_delta", "delta": delta, "usage": _usage(usage)})
            + _event({"type": "message_stop"})
        )

    def failed(self, failure: Failure) -> bytes:
        return _event(DIALECT.error(failure))

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        one = answer.answer
        blocks = list(_blocks(one)) or [_TEXT]
        return self._message(model, blocks, _reason(one.finish, bool(one.calls)), one.finish.stop, _usage(answer.usage))

    def _delta(self, kind: tuple[str, int], block: Mapping[str, Any], delta: str, field: str, text: str) -> bytes:
        begun = b""
        if self._open != kind:
            begun = self._stop() + self._begin(kind, block)
            kind_of_event, place = "content_block_delta", self._blocks - 1
            self._deltas = sse.TextEvents(
                lambda each: {"type": kind_of_event, "index": place, "delta": {"type": delta, field: each}}, kind_of_event
            )
        return begun + self._deltas.of(text)

    def _begin(self, kind: tuple[str, int], block: Mapping[str, Any]) -> bytes:
        self._open = kind
        self._blocks += 1
        return _event({"type": "content_block_start", "index": self._blocks - 1, "content_block": block})

    def _stop(self) -> bytes:
        """The end of the block that is open."""
        if self._open is None:
            return b""
        self._open = None
        return _event({"type": "content_block_stop", "index": self._blocks - 1})

    def _message(
        self, model: str, content: Sequence[Any], reason: str | None, stop: str | None, usage: Mapping[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }


def _blocks(answer: WholeAnswer) -> Iterator[dict[str, Any]]:
    """The blocks of a whole answer, in the order of a stream's."""
    calls = iter(answer.calls)
    last: dict[str, Any] = {}
    for piece in answer.pieces:
        match piece:
            case TextEvent(text=text) if text:
                if last.get("type") != "text":
                    yield (last := dict(_TEXT))
                last["text"] += text
            case ReasoningEvent(text=text):
                if last.get("type") != "thinking":
                    yield (last := dict(_THINKING))
                last["thinking"] += text
            case ToolCallEvent(name=name) if name:
                call = next(calls)
                yield (last := {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input})


def _event(data: Mapping[str, Any]) -> bytes:
    return sse.event(data, data["type"])


def _reason(finish: FinishEvent, called: bool) -> str:
    if finish.stop is not None:
        return "stop_sequence"
    return _REASONS.get(finish.reason, "tool_use" if called else "end_turn")


def _usage(usage: UsageEvent) -> dict[str, int]:
    """Anthropic counts cached tokens apart from the others."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.generated_tokens,
    }

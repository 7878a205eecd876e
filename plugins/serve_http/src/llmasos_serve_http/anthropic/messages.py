"""Messages: bodies to requests, and answers to bodies and events (https://docs.anthropic.com/en/api/messages)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from llmasos_hookspecs import FinishEvent, RequestError, TextEvent, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.anthropic.dialect import AnthropicDialect
from llmasos_serve_http.asked import Asked, Collected
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.fields import flag, model_of, refuse, shown

DIALECT: Final = AnthropicDialect()

_FIELDS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
    "max_tokens": "max_new_tokens",
}
_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "tools": ([],),
    "tool_choice": ({"type": "auto"}, {"type": "none"}),
    "thinking": ({"type": "disabled"},),
    "mcp_servers": ([],),
    "container": (),
    "output_format": (),
}
_REASONS: Final = {"length": "max_tokens", "blocked": "refusal"}
#: Where none is named, as Anthropic has it.
_TEMPERATURE: Final = 1.0


def asked_of(body: Mapping[str, Any]) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    refuse(body, _REFUSED)
    if "max_tokens" not in body:
        raise RequestError("max_tokens is missing; say how many tokens the answer may have.", "max_new_tokens")
    sampling = {argument: body[field] for field, argument in _FIELDS.items() if field in body}
    sampling.setdefault("temperature", _TEMPERATURE)
    return Asked(prompt=messages_of(body), model=model_of(body), sampling=sampling, stream=flag(body, "stream"))


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The system's text and the messages, as chat templates know them. Raises ``RequestError``."""
    messages = body.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError("messages must be a list of at least one message.", "messages")
    found = [_message(place, message) for place, message in enumerate(messages)]
    system = _text(body["system"], "system") if "system" in body else ""
    return [{"role": "system", "content": system}, *found] if system else found


class MessageRendering:
    """One answer as a message, whole or in events."""

    media_type = sse.MEDIA_TYPE
    comment = sse.COMMENT

    def __init__(self, call_id: str) -> None:
        self._id = f"msg_{call_id}"

    def head(self, model: str) -> bytes:
        message = self._message(model, [], None, None, {"input_tokens": 0, "output_tokens": 0})
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return _event({"type": "message_start", "message": message}) + _event(block)

    def piece(self, event: TextEvent) -> bytes:
        if not event.text:  # tokens without text, which end an answer
            return b""
        return _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": event.text}})

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        (finish,) = finishes
        delta = {"stop_reason": _reason(finish), "stop_sequence": finish.stop}
        return (
            _event({"type": "content_block_stop", "index": 0})
            + _event({"type": "message_delta", "delta": delta, "usage": _usage(usage)})
            + _event({"type": "message_stop"})
        )

    def failed(self, failure: Failure) -> bytes:
        return _event(DIALECT.error(failure))

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        blocks = [{"type": "text", "text": answer.text}]
        return self._message(model, blocks, _reason(answer.finish), answer.finish.stop, _usage(answer.usage))

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


def _event(data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))


def _reason(finish: FinishEvent) -> str:
    return "stop_sequence" if finish.stop is not None else _REASONS.get(finish.reason, "end_turn")


def _usage(usage: UsageEvent) -> dict[str, int]:
    """Anthropic counts cached tokens apart from the others."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.generated_tokens,
    }


def _message(place: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant"):
        raise RequestError(f"messages[{place}] must be an object with the role user or assistant.", f"messages[{place}]")
    return {"role": message["role"], "content": _text(message.get("content"), f"messages[{place}].content")}


def _text(content: Any, name: str) -> str:
    """A text, or text blocks joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"{name} is {shown(content)}, and it must be a text or a list of text blocks.", name)
    texts = []
    for block in content:
        if not isinstance(block, Mapping) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise RequestError(f"{name} holds a block that is no text, and this server reads text alone.", name)
        texts.append(block["text"])
    return "\n".join(texts)

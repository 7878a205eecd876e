"""Chat completions: bodies to requests, and answers to bodies and chunks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import FinishEvent, RequestError, TextEvent, TokenLogprob, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.asked import Asked, Collected
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.fields import flag, model_of
from llmasos_serve_http.openai.response_format import constraint_of
from llmasos_serve_http.openai.sampling import includes_usage, sampling_of
from llmasos_serve_http.openai.usage import reason_of, usage_of

DIALECT: Final = OpenAIDialect({"max_new_tokens": "max_tokens", "schema": "response_format", "template_arguments": "chat_template_kwargs"})
#: Most alternatives of a token, as OpenAI has it.
_MOST_ALTERNATIVES: Final = 20


def asked_of(body: Mapping[str, Any], temperature: float) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    sampling = sampling_of(body, temperature) | constraint_of(body)
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None:
        sampling["max_new_tokens"] = limit
    if (alternatives := _alternatives(body)) is not None:
        sampling["logprobs"] = alternatives
    if "chat_template_kwargs" in body:
        sampling["template_arguments"] = body["chat_template_kwargs"]
    return Asked(prompt=messages_of(body), model=model_of(body), sampling=sampling, stream=flag(body, "stream"))


class ChatRendering:
    """One answer as chat completion, whole or in chunks."""

    media_type = sse.MEDIA_TYPE
    comment = sse.COMMENT

    def __init__(self, call_id: str, body: Mapping[str, Any]) -> None:
        """Raises ``RequestError`` where ``body`` asks for no form that there is."""
        self._id = f"chatcmpl-{call_id}"
        self._created = int(time.time())
        self._usage = includes_usage(body)
        self._logprobs = _alternatives(body) is not None
        self._model = ""

    def head(self, model: str) -> bytes:
        self._model = model
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, event: TextEvent) -> bytes:
        if not event.text:  # tokens without text, which end an answer
            return b""
        return self._chunk({"content": event.text}, logprobs=_logprobs([event]) if self._logprobs else None)

    def end(self, usage: UsageEvent, finish: FinishEvent) -> bytes:
        chunks = self._chunk({}, reason=reason_of(finish))
        if self._usage:
            chunks += sse.event(self._common("chat.completion.chunk") | {"choices": [], "usage": usage_of(usage)})
        return chunks + sse.DONE

    def failed(self, failure: Failure) -> bytes:
        return sse.event(DIALECT.error(failure)) + sse.DONE

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        self._model = model
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _logprobs(answer.pieces) if self._logprobs else None,
            "finish_reason": reason_of(answer.finish),
        }
        return self._common("chat.completion") | {"choices": [choice], "usage": usage_of(answer.usage)}

    def _chunk(self, delta: Mapping[str, Any], *, reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        return sse.event(self._common("chat.completion.chunk") | {"choices": [choice]} | usage)

    def _common(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a body, as chat templates know them. Raises ``RequestError``."""
    messages = body.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError("messages must be a list of at least one message.", "messages")
    return [_message(place, message) for place, message in enumerate(messages)]


def _message(place: int, message: Any) -> dict[str, Any]:
    """A message for chat templates, which know neither nulls nor OpenAI's newer name of the system."""
    if not isinstance(message, Mapping):
        raise RequestError(f"messages[{place}] must be an object with role and content.", f"messages[{place}]")
    found = {name: value for name, value in message.items() if value is not None}
    if found.get("role") == "developer":
        found["role"] = "system"
    if found.get("role") == "function" or "function_call" in found:
        raise RequestError(
            f"messages[{place}] is of OpenAI's former function calls; use tool_calls and the role tool.", f"messages[{place}]"
        )
    return {"content": "", **found}


def _alternatives(body: Mapping[str, Any]) -> int | None:
    """How many alternatives each token is to have; None: no log probabilities at all."""
    wanted, count = flag(body, "logprobs"), body.get("top_logprobs", 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_ALTERNATIVES:
        raise RequestError(f"top_logprobs must be a whole number from 0 to {_MOST_ALTERNATIVES}.", "top_logprobs")
    if count and not wanted:
        raise RequestError("top_logprobs needs logprobs = true.", "top_logprobs")
    return count if wanted else None


def _logprobs(events: Sequence[TextEvent]) -> dict[str, Any]:
    return {"content": [_logprob(each) for event in events if event.text for each in event.logprobs], "refusal": None}


def _logprob(found: TokenLogprob) -> dict[str, Any]:
    return {**_token(found.text, found.logprob), "top_logprobs": [_token(text, logprob) for _, text, logprob in found.top]}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8", "surrogatepass"))}

"""Completions of a text: bodies to requests, and answers to bodies and chunks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import FinishEvent, RequestError, TextEvent, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.asked import Asked, Collected
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.fields import flag, model_of
from llmasos_serve_http.openai.response_format import constraint_of
from llmasos_serve_http.openai.sampling import includes_usage, sampling_of
from llmasos_serve_http.openai.usage import reason_of, usage_of

DIALECT: Final = OpenAIDialect({"max_new_tokens": "max_tokens", "schema": "response_format"})
#: Tokens where none are named, as OpenAI has it.
_DEFAULT_TOKENS: Final = 16
_MOST_ALTERNATIVES: Final = 5


def asked_of(body: Mapping[str, Any], temperature: float) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    sampling = sampling_of(body, temperature) | constraint_of(body)
    sampling["max_new_tokens"] = body.get("max_tokens", _DEFAULT_TOKENS)
    if (alternatives := _alternatives(body)) is not None:
        sampling["logprobs"] = alternatives
    return Asked(prompt=_prompt(body), model=model_of(body), sampling=sampling, stream=flag(body, "stream"))


class CompletionRendering:
    """One answer as text completion, whole or in chunks."""

    media_type = sse.MEDIA_TYPE
    comment = sse.COMMENT

    def __init__(self, call_id: str, body: Mapping[str, Any]) -> None:
        """Raises ``RequestError`` where ``body`` asks for no form that there is."""
        self._id = f"cmpl-{call_id}"
        self._created = int(time.time())
        self._usage = includes_usage(body)
        self._logprobs = _alternatives(body) is not None
        self._model = ""
        self._offset = 0

    def head(self, model: str) -> bytes:
        self._model = model
        return b""

    def piece(self, event: TextEvent) -> bytes:
        if not event.text:  # tokens without text, which end an answer
            return b""
        return self._chunk(event.text, logprobs=self._logprobs_of([event]))

    def end(self, usage: UsageEvent, finish: FinishEvent) -> bytes:
        chunks = self._chunk("", reason=reason_of(finish))
        if self._usage:
            chunks += sse.event(self._common() | {"choices": [], "usage": usage_of(usage)})
        return chunks + sse.DONE

    def failed(self, failure: Failure) -> bytes:
        return sse.event(DIALECT.error(failure)) + sse.DONE

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        self._model = model
        choice = {
            "index": 0,
            "text": answer.text,
            "logprobs": self._logprobs_of(answer.pieces),
            "finish_reason": reason_of(answer.finish),
        }
        return self._common() | {"choices": [choice], "usage": usage_of(answer.usage)}

    def _chunk(self, text: str, *, reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        return sse.event(self._common() | {"choices": [choice]} | usage)

    def _common(self) -> dict[str, Any]:
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model}

    def _logprobs_of(self, events: Sequence[TextEvent]) -> dict[str, Any] | None:
        """Lists with an entry for each token; its offset is where the text of its piece begins, to which its own characters are added."""
        if not self._logprobs:
            return None
        tokens, logprobs, tops, offsets = [], [], [], []
        for event in events:
            if not event.text:
                continue
            place = self._offset
            for each in event.logprobs:
                tokens.append(each.text)
                logprobs.append(max(each.logprob, -9999.0))
                tops.append({text: max(logprob, -9999.0) for _, text, logprob in each.top})
                offsets.append(place)
                place += len(each.text)
            self._offset += len(event.text)
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RequestError("prompt must be one text; lists of several, and of token ids, are not supported.", "prompt")
    return prompt


def _alternatives(body: Mapping[str, Any]) -> int | None:
    count = body.get("logprobs")
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_ALTERNATIVES:
        raise RequestError(f"logprobs must be a whole number from 0 to {_MOST_ALTERNATIVES}.", "logprobs")
    return count

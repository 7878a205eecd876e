"""What chat completions and completions of a text share: the envelope of bodies and chunks, and their order in a stream."""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from llmasos_hookspecs import FinishEvent, PartEvent, PromptProgress, ReasoningEvent, RequestError, TextEvent, ToolCallEvent, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.asked import Collected, WholeAnswer
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.fields import flag
from llmasos_serve_http.openai.sampling import answers_of, includes_usage
from llmasos_serve_http.openai.usage import reason_of, usage_of


class OpenAIRendering(ABC):
    """A request's answers, whole or in chunks. A subclass says what a choice holds beside ``index``, ``logprobs`` and ``finish_reason``."""

    media_type = sse.MEDIA_TYPE
    comment = sse.COMMENT
    dialect: ClassVar[OpenAIDialect]
    #: The beginning of ids, and ``object`` of bodies and of chunks.
    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, call_id: str, body: Mapping[str, Any], *, logprobs: bool, prompts: int = 1) -> None:
        """``prompts``: how many the body has. Raises ``RequestError`` where it asks for no form that there is."""
        self._id = f"{self.prefix}-{call_id}"
        self._created = int(time.time())
        self._usage = includes_usage(body)
        self.progress: Callable[[str, PromptProgress], bytes] | None = self._progress if flag(body, "return_progress") else None
        self._n = answers_of(body) * prompts
        self._logprobs = logprobs
        self._model = ""
        self._called: set[int] = set()
        self._texts: list[sse.TextEvents] = []

    def head(self, model: str) -> bytes:
        self._model = model
        self._texts = [sse.TextEvents(functools.partial(self._chunk_of_text, index)) for index in range(self._n)]
        return b""

    def piece(self, event: PartEvent) -> bytes:
        if not isinstance(event, TextEvent):
            if isinstance(event, ToolCallEvent):
                self._called.add(event.index)
            return self._chunk(self._other_part(event), event.index)
        if not event.text:  # tokens without text, which end an answer
            return b""
        if not self._logprobs:
            return self._texts[event.index].of(event.text)
        return self._chunk(self._part(event.text), event.index, logprobs=self._logprobs_of([event]))

    def _progress(self, model: str, progress: PromptProgress) -> bytes:
        """A chunk in llama.cpp's form."""
        self._model = model
        told = {
            "total": progress.total,
            "cache": progress.cached,
            "processed": progress.processed,
            "time_ms": round(progress.seconds * 1000),
        }
        return sse.event(self._chunk_of_text(0, "") | {"prompt_progress": told})

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        chunks = b"".join(
            self._chunk(self._part(""), finish.index, reason=reason_of(finish, called=finish.index in self._called)) for finish in finishes
        )
        if self._usage:
            chunks += sse.event(self._common(self.chunk_kind) | {"choices": [], "usage": usage_of(usage)})
        return chunks + sse.DONE

    def failed(self, failure: Failure) -> bytes:
        return sse.event(self.dialect.error(failure)) + sse.DONE

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        self._model = model
        choices = [self._choice(one) for one in answer.answers]
        return self._common(self.kind) | {"choices": choices, "usage": usage_of(answer.usage)}

    def _choice(self, answer: WholeAnswer) -> dict[str, Any]:
        logprobs = self._logprobs_of(answer.texts) if self._logprobs else None
        reason = reason_of(answer.finish, called=bool(answer.calls))
        return {"index": answer.finish.index, **self._content(answer), "logprobs": logprobs, "finish_reason": reason}

    def _chunk(self, content: Mapping[str, Any], index: int, *, reason: str | None = None, logprobs: Any = None) -> bytes:
        return sse.event(self._chunk_of(content, index, reason, logprobs))

    def _chunk_of_text(self, index: int, text: str) -> dict[str, Any]:
        return self._chunk_of(self._part(text), index, None, None)

    def _chunk_of(self, content: Mapping[str, Any], index: int, reason: str | None, logprobs: Any) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        return self._common(self.chunk_kind) | {"choices": [choice]} | usage

    def _common(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    @abstractmethod
    def _part(self, text: str) -> Mapping[str, Any]:
        """A piece of the text in a chunk's choice; the last one is empty."""

    @abstractmethod
    def _other_part(self, event: ReasoningEvent | ToolCallEvent) -> Mapping[str, Any]:
        """A piece of what is no text in a chunk's choice."""

    @abstractmethod
    def _content(self, answer: WholeAnswer) -> Mapping[str, Any]:
        """The whole answer in a body's choice."""

    @abstractmethod
    def _logprobs_of(self, events: Sequence[TextEvent]) -> Mapping[str, Any]:
        """The log probabilities of the tokens of these events."""


def alternatives_within(count: Any, most: int, name: str) -> int:
    """How many alternatives each token is to have, as the field ``name`` says. Raises ``RequestError``."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= most:
        raise RequestError(f"{name} must be a whole number from 0 to {most}.", name)
    return count

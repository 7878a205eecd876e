"""Answers as responses, whole or in events (https://platform.openai.com/docs/api-reference/responses-streaming)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import FinishEvent, PartEvent, ReasoningEvent, TextEvent, ToolCallEvent, UsageEvent
from llmasos_serve_http import sse
from llmasos_serve_http.asked import Collected
from llmasos_serve_http.failures import Failure
from llmasos_serve_http.openai.response_bodies import DIALECT

#: Fields of a request that its response repeats, and what they are where it leaves them out.
_REPEATED: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}
_INCOMPLETE: Final = {"length": "max_output_tokens", "blocked": "content_filter"}


class ResponseRendering:
    """One answer as a response. A whole one is what the events of its pieces make, so that both are equal."""

    media_type = sse.MEDIA_TYPE
    comment = sse.COMMENT
    progress = None

    def __init__(self, call_id: str, body: Mapping[str, Any]) -> None:
        self._call_id = call_id
        self._created = int(time.time())
        self._repeated = {name: body.get(name, value) for name, value in _REPEATED.items()}
        self._model = ""
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: tuple[str, int] | None = None  # the kind of the last item while it is open, and the number of its call

    def head(self, model: str) -> bytes:
        self._model = model
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def piece(self, event: PartEvent) -> bytes:
        match event:
            case TextEvent(text=""):  # tokens without text, which end an answer
                return b""
            case TextEvent(text=text):
                message = {"type": "message", "role": "assistant", "content": []}
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                return self._begun(("message", 0), "msg", message, part) + self._text("response.output_text.delta", text, logprobs=[])
            case ReasoningEvent(text=text):
                reasoning = {"type": "reasoning", "summary": [], "content": []}
                part = {"type": "reasoning_text", "text": ""}
                return self._begun(("reasoning", 0), "rs", reasoning, part) + self._text("response.reasoning_text.delta", text)
            case ToolCallEvent(call=number, id=call, name=name, arguments=arguments):
                item = {"type": "function_call", "call_id": call, "name": name, "arguments": ""}
                begun = self._begun(("function_call", number), "fc", item)
                self._output[-1]["arguments"] += arguments
                return begun + self._event("response.function_call_arguments.delta", **self._place(), delta=arguments)

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        (finish,) = finishes
        status = "incomplete" if finish.reason in _INCOMPLETE else "completed"
        done = self._done(status)
        return done + self._event(f"response.{status}", response=self._response(status, usage, finish))

    def failed(self, failure: Failure) -> bytes:
        """An event that clients raise as an error, whether they read its fields or the error in it."""
        error = DIALECT.error(failure)["error"]
        return self._event("error", code=error["code"], message=error["message"], param=error["param"], error=error)

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        self._model = model
        for piece in answer.pieces:
            self.piece(piece)
        self.end(answer.usage, answer.finishes)
        (finish,) = answer.finishes
        return self._response("incomplete" if finish.reason in _INCOMPLETE else "completed", answer.usage, finish)

    def _begun(self, kind: tuple[str, int], prefix: str, item: Mapping[str, Any], part: Mapping[str, Any] | None = None) -> bytes:
        """The beginning of an item, after the end of the one before, unless it is open already."""
        if self._open == kind:
            return b""
        done = self._done("completed")
        self._open = kind
        self._output.append({"id": f"{prefix}_{self._call_id}{len(self._output)}", "status": "in_progress", **item})
        place = {"output_index": len(self._output) - 1}
        added = self._event("response.output_item.added", **place, item=self._output[-1])
        if part is not None:
            added += self._event("response.content_part.added", **self._place(), content_index=0, part=part)
            self._output[-1]["content"] = [dict(part)]
        return done + added

    def _text(self, kind: str, text: str, **more: Any) -> bytes:
        self._output[-1]["content"][0]["text"] += text
        return self._event(kind, **self._place(), content_index=0, delta=text, **more)

    def _done(self, status: str) -> bytes:
        """The end of the item that is open."""
        if self._open is None:
            return b""
        kind, self._open = self._open[0], None
        item = self._output[-1]
        item["status"] = status
        if kind == "function_call":
            done = self._event("response.function_call_arguments.done", **self._place(), name=item["name"], arguments=item["arguments"])
        else:
            part = item["content"][0]
            name = "output_text" if kind == "message" else "reasoning_text"
            more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
            done = self._event(f"response.{name}.done", **self._place(), content_index=0, text=part["text"], **more)
            done += self._event("response.content_part.done", **self._place(), content_index=0, part=part)
        return done + self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _event(self, kind: str, **fields: Any) -> bytes:
        found = sse.event({"type": kind, "sequence_number": self._number, **fields}, kind)
        self._number += 1
        return found

    def _response(self, status: str, usage: UsageEvent | None = None, finish: FinishEvent | None = None) -> dict[str, Any]:
        reason = None if finish is None else _INCOMPLETE.get(finish.reason)
        return {
            "id": f"resp_{self._call_id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": self._output,
            "usage": None if usage is None else _usage(usage),
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **self._repeated,
        }


def _usage(usage: UsageEvent) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
    }

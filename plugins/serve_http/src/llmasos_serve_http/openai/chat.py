"""Chat completions: bodies to requests, and answers to bodies and chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import ReasoningEvent, RequestError, TextEvent, TokenLogprob, ToolCallEvent
from llmasos_serve_http.asked import Asked, WholeAnswer
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.fields import flag, model_of, refuse
from llmasos_serve_http.images import checked_urls
from llmasos_serve_http.openai.rendering import OpenAIRendering, alternatives_within
from llmasos_serve_http.openai.response_format import constraint_of
from llmasos_serve_http.openai.sampling import answers_of, sampling_of

DIALECT: Final = OpenAIDialect({
    "max_new_tokens": "max_tokens",
    "schema": "response_format",
    "template_arguments": "chat_template_kwargs",
    "reasoning": "reasoning_effort",
})  # fmt: skip
#: Most alternatives of a token, as OpenAI has it.
MOST_ALTERNATIVES: Final = 20


def asked_of(body: Mapping[str, Any], temperature: float) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    sampling = sampling_of(body, temperature) | constraint_of(body)
    sampling["max_new_tokens"] = body.get("max_completion_tokens", body.get("max_tokens", "context"))
    if (alternatives := _alternatives(body)) is not None:
        sampling["logprobs"] = alternatives
    if "chat_template_kwargs" in body:
        sampling["template_arguments"] = body["chat_template_kwargs"]
    sampling |= tools_of(body)
    return Asked(prompt=messages_of(body), model=model_of(body), sampling=sampling, stream=flag(body, "stream"), n=answers_of(body))


class ChatRendering(OpenAIRendering):
    """One answer as chat completion, whole or in chunks."""

    dialect = DIALECT
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, call_id: str, body: Mapping[str, Any]) -> None:
        """Raises ``RequestError`` where ``body`` asks for no form that there is."""
        super().__init__(call_id, body, logprobs=_alternatives(body) is not None)

    def head(self, model: str) -> bytes:
        super().head(model)
        return b"".join(self._chunk({"delta": {"role": "assistant", "content": ""}}, index) for index in range(self._n))

    def _part(self, text: str) -> Mapping[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _other_part(self, event: ReasoningEvent | ToolCallEvent) -> Mapping[str, Any]:
        if isinstance(event, ReasoningEvent):
            return {"delta": _reasoning(event.text)}
        function = {"name": event.name, "arguments": event.arguments} if event.name else {"arguments": event.arguments}
        first = {"id": event.id, "type": "function"} if event.name else {}
        return {"delta": {"tool_calls": [{"index": event.call, **first, "function": function}]}}

    def _content(self, answer: WholeAnswer) -> Mapping[str, Any]:
        calls = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in answer.calls]
        message = {"role": "assistant", "content": answer.text or ("" if not calls else None), "refusal": None}
        return {"message": message | (_reasoning(answer.reasoning) if answer.reasoning else {}) | ({"tool_calls": calls} if calls else {})}

    def _logprobs_of(self, events: Sequence[TextEvent]) -> Mapping[str, Any]:
        return {"content": [_logprob(each) for event in events if event.text for each in event.logprobs], "refusal": None}


def tools_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The runtime's arguments for tools and reasoning, whose values it checks. Raises ``RequestError``."""
    refuse(body, {"reasoning_effort": ("none",)})
    found = {"reasoning": False} if "reasoning_effort" in body else {}
    if not body.get("tools"):
        refuse(body, {"tool_choice": ("none", "auto")})
        return found
    return found | {name: body[name] for name in ("tools", "tool_choice", "parallel_tool_calls") if name in body}


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
    return {**found, "content": checked_urls(found.get("content", ""), f"messages[{place}].content")}


def _reasoning(text: str) -> dict[str, str]:
    """Reasoning under the name that most clients know, and the one that vLLM gives it now."""
    return {"reasoning_content": text, "reasoning": text}


def _alternatives(body: Mapping[str, Any]) -> int | None:
    """How many alternatives each token is to have; None: no log probabilities at all."""
    wanted, count = flag(body, "logprobs"), alternatives_within(body.get("top_logprobs", 0), MOST_ALTERNATIVES, "top_logprobs")
    if count and not wanted:
        raise RequestError("top_logprobs needs logprobs = true.", "top_logprobs")
    return count if wanted else None


def _logprob(found: TokenLogprob) -> dict[str, Any]:
    return {**_token(found.text, found.logprob), "top_logprobs": [_token(text, logprob) for _, text, logprob in found.top]}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8", "surrogatepass"))}

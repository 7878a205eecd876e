"""Completions of a text: bodies to requests, and answers to bodies and chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import ReasoningEvent, RequestError, TextEvent, TokenPrompt, ToolCallEvent
from llmasos_serve_http.asked import Asked, WholeAnswer
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.fields import flag, model_of, refuse
from llmasos_serve_http.openai import sampling
from llmasos_serve_http.openai.rendering import OpenAIRendering, alternatives_within
from llmasos_serve_http.openai.response_format import constraint_of
from llmasos_serve_http.openai.sampling import MOST_ANSWERS, answers_of, sampling_of

DIALECT: Final = OpenAIDialect({"max_new_tokens": "max_tokens", "schema": "response_format"})
#: Tokens where none are named, as OpenAI has it.
_DEFAULT_TOKENS: Final = 16
MOST_ALTERNATIVES: Final = 5
#: Fields of chat completions that would change the answer.
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {"tools": ([],), "tool_choice": ("none", "auto"), "reasoning_effort": ("none",)}
#: Of those that chat completions refuse too, but ``echo``.
_REFUSED: Final = {name: harmless for name, harmless in sampling.REFUSED.items() if name != "echo"}


def asked_of(body: Mapping[str, Any], temperature: float) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    refuse(body, REFUSED)
    echo = flag(body, "echo")
    found = sampling_of(body, temperature, _REFUSED) | constraint_of(body)
    found["max_new_tokens"] = body.get("max_tokens", _DEFAULT_TOKENS)
    if (alternatives := _alternatives(body)) is not None:
        found["logprobs"] = alternatives
        if echo:
            raise RequestError("echo with logprobs is not supported: there are none of the prompt; leave out one of them.", "echo")
    prompt, *more = prompts_of(body)
    n = answers_of(body)
    if n * (1 + len(more)) > MOST_ANSWERS:
        raise RequestError(f"{1 + len(more)} prompts with n = {n} are more than {MOST_ANSWERS} answers; ask for fewer at once.", "prompt")
    return Asked(prompt=prompt, model=model_of(body), sampling=found, stream=flag(body, "stream"), n=n, more=more)


class CompletionRendering(OpenAIRendering):
    """One answer as text completion, whole or in chunks."""

    dialect = DIALECT
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, call_id: str, body: Mapping[str, Any], echoes: Sequence[str] = ()) -> None:
        """``echoes``: the texts of the prompts, where answers are to begin with them. Raises ``RequestError`` where ``body`` asks for no
        form that there is."""
        super().__init__(call_id, body, logprobs=_alternatives(body) is not None, prompts=len(prompts_of(body)))
        self._offsets = [0] * self._n
        self._echoes = [echo for echo in echoes for _ in range(answers_of(body))]

    def head(self, model: str) -> bytes:
        return super().head(model) + b"".join(self._texts[index].of(echo) for index, echo in enumerate(self._echoes) if echo)

    def _part(self, text: str) -> Mapping[str, Any]:
        return {"text": text}

    def _other_part(self, event: ReasoningEvent | ToolCallEvent) -> Mapping[str, Any]:
        raise TypeError(f"A text is continued by text alone, and not by {event}.")

    def _content(self, answer: WholeAnswer) -> Mapping[str, Any]:
        echo = self._echoes[answer.finish.index] if self._echoes else ""
        return self._part(echo + answer.text)

    def _logprobs_of(self, events: Sequence[TextEvent]) -> Mapping[str, Any]:
        """Lists with an entry for each token; its offset is where the text of its piece begins, to which its own characters are added."""
        tokens, logprobs, tops, offsets = [], [], [], []
        for event in events:
            if not event.text:
                continue
            place = self._offsets[event.index]
            for each in event.logprobs:
                tokens.append(each.text)
                logprobs.append(max(each.logprob, -9999.0))
                tops.append({text: max(logprob, -9999.0) for _, text, logprob in each.top})
                offsets.append(place)
                place += len(each.text)
            self._offsets[event.index] += len(event.text)
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}


def prompts_of(body: Mapping[str, Any]) -> list[str | TokenPrompt]:
    """The prompts: a text, its token ids, or a list of such. Raises ``RequestError``."""
    given = body.get("prompt")
    each = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
    return [_prompt(prompt) for prompt in each]


def _prompt(prompt: Any) -> str | TokenPrompt:
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) and not isinstance(token, bool) for token in prompt):
        return TokenPrompt(tuple(prompt))
    if not isinstance(prompt, str):
        raise RequestError("prompt must be a text, the token ids of one, or a list of such.", "prompt")
    return prompt


def _alternatives(body: Mapping[str, Any]) -> int | None:
    count = body.get("logprobs")
    return None if count is None else alternatives_within(count, MOST_ALTERNATIVES, "logprobs")

"""A task model without weights: it says what a script tells it, or random text of whatever form is asked for."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.errors import ContextLengthExceeded, RequestError
from llmasos_hookspecs.guards import Stage
from llmasos_hookspecs.sampling import SamplingParams
from llmasos_hookspecs.server import Event, FinishEvent, TextEvent, ToolCallEvent, UsageEvent
from llmasos_hookspecs.tasks import Choice, FinishReason, Generation, Prompt, Ranked, Score, TextKind
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer

_FORMS: Final = ("schema", "regex", "choices", "grammar")
#: What a chat prompt may come with beside sampling.
_TOOLS: Final = ("tools", "tool_choice", "parallel_tool_calls")

#: What ``ScriptedTaskModel`` is told to say: a text, or calls of tools, each a name and arguments; or both, the text first.
Said = str | Sequence[str | tuple[str, Mapping[str, Any]]]

#: What random text is made of: words, markup that parsers trip over, other scripts, control tokens.
_PIECES: Final = (
    *("the ", "cat. ", "Yes", "no, ", "42 ", "\n", "\n\n", " ", "```", "```python\n", "x = 1\n", "{", '"', "}", "[1] ", "\\", "<|im_end|>"),
    *("天气", "。", "🙂", "👩‍👩‍👧", "é", "\u200b", "- ", "1. ", "Score: ", "user: ", "def f(:\n", "\t"),
)


@attrs.frozen
class Call:
    """One call that the model was sent: ``method`` is generate, stream, events or score; ``text`` the rendered prompt."""

    method: str
    prompt: Prompt
    text: str
    sampling: Mapping[str, Any]


class ScriptedTaskModel:
    """A ``TaskModel`` over bytes for tests of tasks; it keeps every rule that core keeps, and needs no weights.

    ``reply`` is called with the rendered prompt and the sampling arguments and returns the text; with ``None`` the text is random,
    and satisfies the constraint where one is given (which needs the package ``llguidance``). Stop strings and token limits cut
    either. Where it is asked with tools it may return calls of them: a list of texts and of pairs of a name and arguments. With ``None``
    it calls some tool at random, with arguments that the tool's JSON Schema allows, every other time. ``likelihood`` is called with the
    rendered prompt and a continuation and returns a log probability; with ``None`` it is a number that looks random and is always the
    same for the same two.

    ``passes`` is called with a text and the stage of guards that it is at, and returns what passes or raises ``Blocked``.

    Attributes:
        calls: every generate, stream, events and score, in order.
    """

    def __init__(
        self,
        reply: Callable[[str, Mapping[str, Any]], Said] | Sequence[Said] | None = None,
        *,
        passes: Callable[[str, Stage], str] | None = None,
        likelihood: Callable[[str, str], float] | None = None,
        context_length: int = 2048,
        has_chat_template: bool = True,
        seed: int = 0,
    ) -> None:
        if reply is not None and not callable(reply):
            lines = iter(list(reply))
            self._reply: Callable[[str, Mapping[str, Any]], Said] | None = lambda _text, _sampling: next(lines)
        else:
            self._reply = reply
        self._passes = passes
        self._likelihood = likelihood
        self._context_length = context_length
        self._has_chat_template = has_chat_template
        self._random = random.Random(seed)  # noqa: S311 - text for tests, no secret
        self.calls: list[Call] = []
        self.tokenizer = ByteTokenizer()

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def has_chat_template(self) -> bool:
        return self._has_chat_template

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        if self._has_chat_template:
            text = "".join(f"<|im_start|>{m['role']}\n{_content(m)}<|im_end|>\n" for m in messages)
            return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")
        return "".join(f"{m['role']}: {_content(m)}\n" for m in messages) + ("assistant:" if add_generation_prompt else "")

    def count_tokens(self, prompt: Prompt, **options: Any) -> int:
        return len(self.tokenizer.encode(self._text(prompt, options.get("tools", ()))))

    def generate(self, prompt: Prompt, **sampling: Any) -> Generation:
        return self._generate("generate", prompt, sampling)

    def stream(self, prompt: Prompt, **sampling: Any) -> Generator[str, None, None]:
        text = self._generate("stream", prompt, sampling).text
        for start in range(0, len(text), 3):
            yield text[start : start + 3]

    def events(self, prompt: Prompt, **sampling: Any) -> Generator[Event, None, None]:
        given: dict[str, Any] = {name: sampling.pop(name) for name in _TOOLS if name in sampling}
        tools = () if given.get("tool_choice") == "none" else given.get("tools", ())
        text = self._text(prompt, tools)
        self.calls.append(Call("events", prompt, text, {**sampling, **given}))
        params, limit, form = self.read_sampling(sampling)
        prompt_tokens = len(self.tokenizer.encode(text))
        limit = self._limit(prompt_tokens, limit)
        if self._reply is None and tools and self._random.random() < 0.5:
            function = self._random.choice(list(tools))["function"]
            schema = {"additionalProperties": False, **function["parameters"]}
            said: Said = [(function["name"], json.loads(self._constrained("schema", schema, 1 << 16)))]
        else:
            said = self._said(text, {**sampling, **given}, form, limit)
        return self._parts([said] if isinstance(said, str) else said, params, limit, prompt_tokens)

    def _parts(
        self, said: Sequence[str | tuple[str, Mapping[str, Any]]], params: SamplingParams, limit: int, prompt_tokens: int
    ) -> Generator[Event, None, None]:
        """The events of what is said; texts and arguments come piece by piece, and end where no token is left."""
        used = calls = 0
        reason: FinishReason = "stop"
        for part in said:
            text = part if isinstance(part, str) else json.dumps(part[1], ensure_ascii=False)
            found = self._finish(
                text.encode("utf-8", "surrogateescape"), max(0, limit - used), params if isinstance(part, str) else SamplingParams(), 0
            )
            used, reason = used + len(found.tokens), found.finish_reason
            if not isinstance(part, str):
                yield ToolCallEvent(call=calls, id=f"{calls:09}", name=part[0])
            for start in range(0, len(found.text), 3):
                piece = found.text[start : start + 3]
                yield TextEvent(text=piece) if isinstance(part, str) else ToolCallEvent(call=calls, arguments=piece)
            calls += not isinstance(part, str)
            if reason == "length":
                break
        yield UsageEvent(prompt_tokens=prompt_tokens, cached_tokens=0, generated_tokens=used)
        yield FinishEvent(reason=reason)

    def check_text(self, text: str, *, stage: Stage, messages: Sequence[Mapping[str, Any]] = ()) -> str:
        return text if self._passes is None else self._passes(text, stage)

    def batch(self, prompts: Sequence[Prompt], **sampling: Any) -> list[Generation]:
        return [self._generate("generate", prompt, sampling) for prompt in prompts]

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        text = self._text(prompt)
        self.calls.append(Call("score", prompt, text, {"continuations": tuple(continuations)}))
        if not continuations or not all(continuations):
            raise RequestError("score needs at least one continuation, and none may be empty.")
        longest = max(len(self.tokenizer.encode(item)) for item in continuations)
        self._check_length(len(self.tokenizer.encode(text)), longest)
        likelihood = self._likelihood or _hashed_likelihood
        return [Score(logprob=likelihood(text, item), tokens=len(self.tokenizer.encode(item))) for item in continuations]

    def choose(self, prompt: Prompt, choices: Sequence[str], *, normalize: bool = False) -> Choice:
        scores = np.array([score.mean if normalize else score.logprob for score in self.score(prompt, choices)])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        best = int(weights.argmax())
        return Choice(index=best, text=choices[best], probabilities=tuple(float(weight) for weight in weights))

    def embed(
        self,
        texts: Sequence[str],
        kind: TextKind = "passage",
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        **scheduling: Any,
    ) -> npt.NDArray[np.float32]:
        """Counts of words, spread over 32 dimensions: texts that share words are near one another."""
        if unknown := scheduling.keys() - {"tenant", "priority", "weight", "deadline", "adapter"}:
            raise RequestError(f"embed takes no {', '.join(sorted(unknown))}.")
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise RequestError("embed takes a list of texts, none of them empty.")
        found = np.zeros((len(texts), 32), dtype=np.float32)
        for place, text in enumerate(texts):
            size = len(self.tokenizer.encode(text))
            if size > self._context_length and not truncate:
                raise ContextLengthExceeded(f"Text {place + 1} has {size} tokens, and the model takes {self._context_length}.")
            for word in text.lower().split():
                found[place, int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 32] += 1
        found = found[:, :dimensions]
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.float32(1e-12)) if normalize else found

    def rank(self, query: str, documents: Sequence[str], *, top: int | None = None, truncate: bool = False) -> list[Ranked]:
        vectors = self.embed([query, *documents], truncate=truncate)
        scores = vectors[1:] @ vectors[0]
        order = np.argsort(-scores, kind="stable")[:top].tolist()
        return [Ranked(index=place, text=documents[place], score=float(scores[place])) for place in order]

    def other(self, name: str) -> ScriptedTaskModel:
        """This model, by whatever name."""
        return self

    def _text(self, prompt: Prompt, tools: Sequence[Any] = ()) -> str:
        if isinstance(prompt, str):
            return prompt
        shown = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        return self.render([{"role": "system", "content": shown}, *prompt] if shown else prompt)

    def _check_length(self, prompt_tokens: int, new: int) -> None:
        if not prompt_tokens:
            raise RequestError("The prompt is empty.")
        if prompt_tokens + new > self._context_length:
            raise ContextLengthExceeded(
                f"The prompt of {prompt_tokens} tokens and {new} new ones do not fit the context of {self._context_length}."
            )

    def _generate(self, method: str, prompt: Prompt, sampling: Mapping[str, Any]) -> Generation:
        text = self._text(prompt)
        self.calls.append(Call(method, prompt, text, dict(sampling)))
        params, limit, form = self.read_sampling(sampling)
        prompt_tokens = len(self.tokenizer.encode(text))
        limit = self._limit(prompt_tokens, limit)
        said = self._said(text, sampling, form, limit)
        if not isinstance(said, str):
            raise RequestError("The script calls tools, and the model was not asked with any.")
        return self._finish(said.encode("utf-8", "surrogateescape"), limit, params, prompt_tokens)

    def _limit(self, prompt_tokens: int, limit: int | None) -> int:
        """Tokens to generate at most. Raises ``ContextLengthExceeded`` where the prompt leaves no room for them."""
        if limit is None:
            limit = self._context_length - prompt_tokens
            _check_limit(limit)
        self._check_length(prompt_tokens, limit)
        return limit

    def _said(self, text: str, sampling: Mapping[str, Any], form: Mapping[str, Any], limit: int) -> Said:
        if self._reply is not None:
            return self._reply(text, sampling)
        if form:
            return self._constrained(*next(iter(form.items())), limit).decode("utf-8", "surrogateescape")  # the limit may cut a character
        return "".join(self._random.choices(_PIECES, k=self._random.randrange(0, max(2, limit // 2))))

    @staticmethod
    def read_sampling(sampling: Mapping[str, Any]) -> tuple[SamplingParams, int | None, dict[str, Any]]:
        """Keyword arguments of a generation: sampling parameters, ``max_new_tokens``, and the form that is asked for; not the tenant.

        Raises:
            RequestError: one is refused.
            TypeError: one is unknown.
        """
        rest = dict(sampling)
        rest.pop("tenant", None)
        limit = rest.pop("max_new_tokens", None)
        form: dict[str, Any] = {name: rest.pop(name) for name in _FORMS if name in rest}
        params = SamplingParams(**rest)  # raises where an argument is unknown or out of range
        if len(form) > 1:
            raise RequestError(f"Only one form can be asked for, not {' and '.join(form)}.")
        if limit is not None:
            _check_limit(limit)
        return params, limit, form

    def _finish(self, raw: bytes, limit: int, params: SamplingParams, prompt_tokens: int) -> Generation:
        reason: FinishReason = "length" if len(raw) > limit else "stop"
        written = raw[:limit].decode("utf-8", "ignore")
        stop = min((s for s in params.stop if s in written), key=written.index, default=None)
        if stop is not None:
            written, reason = written[: written.index(stop)], "stop"
        return Generation(
            text=written, tokens=tuple(written.encode()), finish_reason=reason, prompt_tokens=prompt_tokens, logprobs=None, stop=stop
        )

    def _constrained(self, kind: str, value: Any, limit: int) -> bytes:
        """A random walk through all that the constraint allows, until it is complete or ``limit`` bytes are written."""
        matcher = _matcher(kind, json.dumps(value)).deep_copy()
        vocab_size, end = _bytes().vocab_size, _bytes().eos_token
        written = bytearray()
        while len(written) <= limit and not matcher.is_stopped():
            mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little", count=vocab_size)
            allowed: list[int] = mask.nonzero()[0].tolist()
            if matcher.is_error() or not allowed:
                raise RequestError(f"The constraint cannot be satisfied: {matcher.get_error()}")
            if mask[end]:
                if len(allowed) == 1 or self._random.random() < 0.3:
                    break
                allowed.remove(end)
            token = self._random.choice(allowed)
            matcher.consume_token(token)
            written.append(token)
        return bytes(written)


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, with ``<image>`` for each image, and the calls in it."""
    content = message["content"] or ""
    if not isinstance(content, str):
        content = "".join("<image>" if part["type"] in ("image", "image_url") else part["text"] for part in content)
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([content, *calls])


def _check_limit(limit: Any) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise RequestError(f"max_new_tokens is {limit!r}, and it must be a whole number of at least 1.")


@functools.cache
def _bytes() -> Any:
    """The vocabulary: each byte, and an end."""
    import llguidance

    return llguidance.LLTokenizer("byte")


@functools.lru_cache(maxsize=64)
def _matcher(kind: str, value: str) -> Any:
    """At the beginning of what the constraint, in JSON, allows. Copies of it share what any of them found out about the grammar, which
    takes most of the time of the first walk through it."""
    import llguidance

    return llguidance.LLMatcher(_bytes(), _grammar(kind, json.loads(value)))


def _grammar(kind: str, value: Any) -> str:
    from llguidance import LLMatcher

    if kind == "schema":
        grammar = LLMatcher.grammar_from_json_schema(value)
    elif kind == "regex":
        grammar = LLMatcher.grammar_from_regex(value)
    elif kind == "choices":
        grammar = LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in value))
    else:
        grammar = LLMatcher.grammar_from_lark(value)
    problem = LLMatcher.validate_grammar(grammar)
    if problem:
        raise RequestError(f"The {kind} cannot be used as a constraint: {problem}")
    return str(grammar)


def _hashed_likelihood(prompt: str, continuation: str) -> float:
    digest = hashlib.sha256(f"{prompt}\0{continuation}".encode()).digest()
    return -0.01 - int.from_bytes(digest[:4], "big") / 2**32 * 8

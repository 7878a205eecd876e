"""From what a caller says to what the runtime serves: keyword arguments become a checked ``Request``."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Final, Literal, TypeVar, cast

import attrs

from llmasos.compose.schemas import as_schema
from llmasos_chat_templates.messages import ChatOptions
from llmasos_config import Config
from llmasos_config.foreign_words import our_word
from llmasos_config.models import DEFAULT_MODEL
from llmasos_hookspecs import ConfigError, Constraint, PlacedMedia, Request, RequestError, SamplingParams
from llmasos_hookspecs.sampling import plain_number
from llmasos_options.words import dotted
from llmasos_plugin_calls.deadlines import earliest

P = TypeVar("P")

#: New tokens where neither ``max_new_tokens`` nor ``max_length`` is given, context permitting.
DEFAULT_NEW_TOKENS: Final = 256
#: ``max_new_tokens`` of a request that wants as many as there is room for.
AS_MANY_AS_FIT: Final = "context"

_SAMPLING: Final = frozenset(field.name for field in attrs.fields(SamplingParams)) - {"constraint"}
_CONSTRAINTS: Final = {"schema": "json_schema", "regex": "regex", "choices": "choices", "grammar": "grammar"}
_PLACE: Final = ("tenant", "priority", "weight", "deadline")
_LENGTH: Final = ("max_new_tokens", "max_length")
_CHAT: Final = tuple(field.name for field in attrs.fields(ChatOptions))
_LANGUAGES: Final = ("source_language", "target_language")
_ADAPTER: Final = "adapter"

#: In the order in which they are suggested for a word that is none of them.
_KNOWN: Final = dict.fromkeys((*_SAMPLING, *_CONSTRAINTS, *_PLACE, *_LENGTH, *_CHAT, *_LANGUAGES, _ADAPTER))

_numbers = itertools.count(1)


@attrs.frozen(kw_only=True)
class Defaults:
    """What holds for every request of a model where the request says nothing of its own, as config or a preset has it.

    Attributes:
        system: the system message of chats that have none.
        messages: what stands before the messages of every chat.
        sampling: keyword arguments of generations.
    """

    system: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    sampling: Mapping[str, Any] = attrs.field(factory=dict)

    def prompt(self, prompt: P) -> P:
        """Chat messages with those that stand before them; anything else as it is."""
        if not (self.system or self.messages) or isinstance(prompt, str) or not isinstance(prompt, Sequence) or not prompt:
            return prompt
        own: list[Any] = [prompt[0]] if isinstance(prompt[0], Mapping) and prompt[0].get("role") == "system" else []
        system = own or ([{"role": "system", "content": self.system}] if self.system else [])
        return cast("P", [*system, *self.messages, *prompt[len(own) :]])

    def arguments(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keyword arguments of a generation with those that it does not have."""
        if not self.sampling:
            return given
        constrained = any(given.get(name) is not None for name in _CONSTRAINTS)
        return {**{name: value for name, value in self.sampling.items() if not (constrained and name in _CONSTRAINTS)}, **given}


@attrs.frozen(kw_only=True)
class GenerationParams:
    """What a caller asks for beside the prompt.

    Attributes:
        sampling: how tokens are drawn.
        max_new_tokens: tokens to generate at most; ``context``: as many as there is room for; None: the default, or what ``max_length``
            leaves.
        max_length: tokens of prompt and continuation together at most.
        tenant, priority, weight: as in ``Request``.
        deadline: seconds from now after which the answer is worth nothing; None: never.
        chat: what a prompt of chat messages depends on beside them.
        most_new_tokens: what a client may have, whatever it asks for; None: any number.
        source_language, target_language: codes of the languages that an encoder-decoder reads and writes; None: what its files say.
        adapter: name of the adapter that it is computed with; empty: none.
    """

    sampling: SamplingParams
    max_new_tokens: int | Literal["context"] | None = None
    max_length: int | None = None
    tenant: str = "default"
    priority: int = 0
    weight: float = 1.0
    deadline: float | None = None
    chat: ChatOptions = attrs.field(factory=ChatOptions)
    most_new_tokens: int | None = None
    source_language: str | None = None
    target_language: str | None = None
    adapter: str = ""

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> GenerationParams:
        """Read keyword arguments.

        Raises:
            RequestError: one is unknown (with the nearest name), or its value is refused.
        """
        arguments = {name: plain_number(value) for name, value in arguments.items()}
        for name in arguments:
            if name not in _KNOWN:
                raise RequestError(f'"{name}" is no option of a generation{our_word(name, "generation", _KNOWN)}', name)
        if "schema" in arguments:
            arguments["schema"] = as_schema(arguments["schema"])
        constraints = [
            Constraint(kind, arguments[name])  # type: ignore[arg-type]  # its kinds, as _CONSTRAINTS lists them
            for name, kind in _CONSTRAINTS.items()
            if arguments.get(name) is not None
        ]
        if len(constraints) > 1:
            raise RequestError(f"Only one of {', '.join(_CONSTRAINTS)} can constrain a generation; {len(constraints)} are given.")
        for name in _LENGTH:
            if name != "max_new_tokens" or arguments.get(name) != AS_MANY_AS_FIT:
                _check_count(name, arguments.get(name))
        deadline = arguments.get("deadline")
        if deadline is not None and (isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline < math.inf):
            raise RequestError(f"deadline is {deadline!r}, and it must be a number of seconds above 0.", "deadline")
        weight = arguments.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise RequestError(f"weight is {weight!r}, and it must be a number above 0.", "weight")
        priority = arguments.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise RequestError(f"priority is {priority!r}, and it must be a whole number.", "priority")
        tenant = arguments.get("tenant", "default")
        if not isinstance(tenant, str) or not tenant:
            raise RequestError(f"tenant is {tenant!r}, and it must be a name.", "tenant")
        languages = {name: arguments.get(name) for name in _LANGUAGES}
        for name, language in languages.items():
            if language is not None and (not isinstance(language, str) or not language):
                raise RequestError(f"{name} is {language!r}, and it must be one of the model's language codes.", name)
        adapter = arguments.get(_ADAPTER) or ""
        if not isinstance(adapter, str):
            raise RequestError(f"adapter is {adapter!r}, and it must be the name of an adapter of the model, or None.", _ADAPTER)
        chat = {name: arguments[name] for name in _CHAT if name in arguments}
        return cls(
            sampling=SamplingParams(
                **{name: value for name, value in arguments.items() if name in _SAMPLING},
                constraint=constraints[0] if constraints else None,
            ),
            max_new_tokens=arguments.get("max_new_tokens"),
            max_length=arguments.get("max_length"),
            tenant=tenant,
            priority=priority,
            weight=float(weight),
            deadline=deadline,
            chat=ChatOptions.of(**chat) if chat else ChatOptions(),
            adapter=adapter,
            **languages,
        )

    def request(self, model: str, tokens: Sequence[int], context_length: int, room: int, media: tuple[PlacedMedia, ...] = ()) -> Request:
        """The request for a prompt of the given token ids; inside a task with a deadline it has that too.

        ``room``: tokens of prompt and answer that fit into the KV cache and the context. ``media``: those in the prompt.

        Raises:
            RequestError: ``max_length`` leaves nothing to generate.
        """
        now = time.monotonic()
        return Request(
            id=f"{model}-{next(_numbers)}",
            model=model,
            tokens=tokens,
            max_new_tokens=self._new_tokens(len(tokens), context_length, room),
            arrival=now,
            tenant=self.tenant,
            priority=self.priority,
            weight=self.weight,
            deadline=earliest(None if self.deadline is None else now + self.deadline),
            sampling=self.sampling,
            media=media,
            adapter=self.adapter,
        )

    def _new_tokens(self, prompt: int, context_length: int, room: int) -> int:
        bounds = [count for count in (self.most_new_tokens, self._left(prompt)) if count is not None]
        # What was asked for is refused where it does not fit; only what was left to us is fitted. A prompt that leaves no room at all is
        # refused too, by the loop.
        if isinstance(self.max_new_tokens, int):
            return min([self.max_new_tokens, *bounds])
        if self.max_new_tokens == AS_MANY_AS_FIT:
            return max(1, min([room - prompt, *bounds]))
        if self.max_length is not None:
            return min(bounds)
        return max(1, min(DEFAULT_NEW_TOKENS, context_length - prompt, *bounds))

    def _left(self, prompt: int) -> int | None:
        if self.max_length is None:
            return None
        if self.max_length <= prompt:
            raise RequestError(
                f"max_length is {self.max_length} and counts the prompt, which has {prompt} tokens already; make it at least {prompt + 1}.",
                "max_length",
            )
        return self.max_length - prompt


def defaults_problems(config: Config) -> Iterator[ConfigError]:
    """What is wrong with the options of generations that a config has for its models."""
    for name, model in config.models.items():
        path = "model" if name == DEFAULT_MODEL else dotted("models", name)
        try:
            GenerationParams.of(model.sampling)
        except RequestError as error:
            yield ConfigError(f"{path}.sampling: {error}", f"{path}.sampling")
        for place, message in enumerate(model.messages):
            if not {"role", "content"} <= message.keys():
                yield ConfigError(f"{path}.messages[{place}] must have a role and a content.", f"{path}.messages[{place}]")


def token_ids(tokens: Any) -> list[int]:
    """Token ids that a caller gave, numpy's among them. Raises ``RequestError`` where they are none."""
    if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable):
        raise RequestError(f"The tokens are a {type(tokens).__name__}, and they must be a list of token ids.", "tokens")
    found = list(tokens)
    for token in found:
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise RequestError(f"The tokens hold {token!r}, and a token id is a whole number.", "tokens")
    return [int(token) for token in found]


def _check_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RequestError(f"{name} is {value!r}, and it must be a whole number of at least 1.", name)

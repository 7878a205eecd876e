"""The options of a generation by name: what editors complete, type checkers check, and ``help`` and ``model.options()`` list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, TypeVar

import attrs

from llmasos_chat_templates.messages import ChatOptions
from llmasos_hookspecs import SamplingParams

F = TypeVar("F", bound=Callable[..., Any])


class ObjectOptions(TypedDict, total=False):
    """Keyword arguments of a generation whose schema is given apart."""

    max_new_tokens: int | Literal["context"] | None
    max_length: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    logprobs: int | None
    skip_special_tokens: bool
    prompt_lookup: int
    copying: bool
    num_beams: int
    length_penalty: float
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None
    tools: Sequence[Mapping[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    constrain_tools: bool
    reasoning: bool | None
    template_arguments: Mapping[str, Any]
    allow_control_tokens: bool
    source_language: str | None
    target_language: str | None
    adapter: str | None
    tenant: str
    priority: int
    weight: float
    deadline: float | None


class GenerationOptions(ObjectOptions, total=False):
    """Keyword arguments of every method that generates; all may be left out. ``model.options()`` says what each does."""

    schema: Any


@attrs.frozen
class Option:
    """One option of a generation: its default, and what it does."""

    name: str
    default: Any
    help: str


_HELP: Final[Mapping[str, str]] = {
    "max_new_tokens": 'New tokens at most; "context": as many as there is room for. 256 where max_length is not given either.',
    "max_length": "Tokens of prompt and answer together at most.",
    "temperature": "0 is greedy and reproducible; above 0 tokens are drawn, the likelier ones more often the lower it is.",
    "top_k": "Draw from this many of the likeliest tokens; 0: from all.",
    "top_p": "Draw from the likeliest tokens that reach this probability together.",
    "min_p": "Draw from tokens at least this fraction as likely as the likeliest.",
    "repetition_penalty": "Above 1 makes tokens that stood before less likely, the prompt's too.",
    "presence_penalty": "Subtracted from the logit of each token that was generated already.",
    "frequency_penalty": "Subtracted from a token's logit once for each time that it was generated.",
    "logit_bias": "Token id -> number that is added to its logit.",
    "seed": "Makes drawn tokens reproducible.",
    "stop": "A text, or several, that ends the answer and is no part of it.",
    "ignore_eos": "Go on past the model's end-of-sequence tokens.",
    "logprobs": "Log probability of each token, and of this many alternatives.",
    "skip_special_tokens": "False writes control tokens into the text.",
    "prompt_lookup": "Draft this many tokens a step from earlier text; the answer stays the same.",
    "copying": "The answer repeats much of the prompt: prompt lookup is used where it is exact.",
    "num_beams": "Keep this many hypotheses and give the likeliest (beam search).",
    "length_penalty": "Of beam search: above 0 favours long texts.",
    "schema": "A JSON Schema that the answer follows: a mapping, or a pydantic model, an attrs class or a dataclass.",
    "regex": "A regular expression that the answer matches.",
    "choices": "The answers to choose from.",
    "grammar": "A Lark grammar that the answer follows.",
    "tools": "Functions that the model may call, in OpenAI's form; for chat messages.",
    "tool_choice": '"auto", "none", "required", or the one function to call.',
    "parallel_tool_calls": "An answer may have several calls, where the template has that.",
    "constrain_tools": "Calls follow the functions' JSON Schemas.",
    "reasoning": "Whether the model reasons before it answers; None: as its template has it.",
    "template_arguments": "Further variables of the chat template.",
    "allow_control_tokens": "Control tokens that messages spell are encoded as control tokens.",
    "source_language": "Of a multilingual encoder-decoder: the language of the prompt, a code out of model.languages.",
    "target_language": "Of a multilingual encoder-decoder: the language of the answer.",
    "adapter": "One of the model's LoRA adapters, by name.",
    "tenant": "Whose request it is, for schedulers.",
    "priority": "For schedulers that heed it: higher runs first.",
    "weight": "For schedulers that share: how much of the engine the tenant has.",
    "deadline": "Seconds from now after which the answer is worth nothing.",
}


def options(given: Mapping[str, Any]) -> tuple[Option, ...]:
    """Every option with the default that holds where ``given`` has none, and what it does."""
    own: dict[str, Any] = {field.name: field.default for cls in (SamplingParams, ChatOptions) for field in attrs.fields(cls)}
    own |= {"tenant": "default", "priority": 0, "weight": 1.0}
    found = []
    for name in GenerationOptions.__annotations__:
        default: Any = own.get(name)
        default = default.factory() if hasattr(default, "factory") else default
        found.append(Option(name, given.get(name, default), _HELP[name]))
    return tuple(found)


def lists_options(function: F) -> F:
    """Show a function's options by name, with their defaults, where ``help`` and notebooks show its arguments."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    kinds = GenerationOptions.__annotations__
    named = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=_shown(kinds[each.name]))
        for each in _DEFAULTS
        if each.name not in signature.parameters
    ]
    function.__dict__["__signature__"] = signature.replace(parameters=[*own, *named])
    return function


def _shown(kind: Any) -> Any:
    """An annotation as it is written above."""
    return getattr(kind, "__forward_arg__", kind)


_DEFAULTS: Final = options({})

"""How tokens are sampled, as OpenAI's fields and those that other servers of its protocol added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmasos_hookspecs import RequestError

#: Fields of a body -> arguments of the runtime, which checks their values.
FIELDS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "logit_bias": "logit_bias",
    "seed": "seed",
    "stop": "stop",
    "ignore_eos": "ignore_eos",
    "guided_json": "schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "guided_grammar": "grammar",
}

#: Fields that would change the answer, and the values that ask for what the server does anyway.
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "documents": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "reasoning_effort": ("none",),
}


def sampling_of(body: Mapping[str, Any], temperature: float) -> dict[str, Any]:
    """The runtime's arguments for a body.

    Raises:
        RequestError: a field asks for what the server does not do, and the answer would not be the one that was asked for.
    """
    for name, harmless in REFUSED.items():
        if name in body and not any(body[name] == value and type(body[name]) is type(value) for value in harmless):
            raise RequestError(f"{name} = {_shown(body[name])} is not supported, and the answer would be another; leave it out.", name)
    found = {argument: body[field] for field, argument in FIELDS.items() if field in body}
    found.setdefault("temperature", temperature)
    return found


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; false where it is left out. Raises ``RequestError``."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{name} is {_shown(value)}, and it must be true or false.", name)
    return value


def model_of(body: Mapping[str, Any]) -> str | None:
    """The model that is asked for; None: the default."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(f"model is {_shown(model)}, and it must be a name.", "model")
    return model or None


def includes_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream ends with what it used."""
    options = body.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise RequestError(f"stream_options is {_shown(options)}, and it must be an object.", "stream_options")
    return flag({name: value for name, value in options.items() if value is not None}, "include_usage")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

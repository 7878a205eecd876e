"""How tokens are sampled, as OpenAI's fields and those that other servers of its protocol added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmasos_hookspecs import RequestError
from llmasos_serve_http.fields import flag, refuse, shown

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
    "skip_special_tokens": "skip_special_tokens",
    "guided_json": "schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "guided_grammar": "grammar",
}

#: Fields that would change the answer, and the values that ask for what the server does anyway.
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "documents": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
}


#: Most answers of one prompt, as OpenAI has it.
MOST_ANSWERS: Final = 128


def answers_of(body: Mapping[str, Any]) -> int:
    """How many answers a body asks for. Raises ``RequestError``."""
    count = body.get("n", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ANSWERS:
        raise RequestError(f"n is {shown(count)}, and it must be a whole number from 1 to {MOST_ANSWERS}.", "n")
    return count


def sampling_of(body: Mapping[str, Any], temperature: float, refused: Mapping[str, tuple[Any, ...]] = REFUSED) -> dict[str, Any]:
    """The runtime's arguments for a body.

    Raises:
        RequestError: a field asks for what the server does not do, and the answer would not be the one that was asked for.
    """
    refuse(body, refused)
    found = {argument: body[field] for field, argument in FIELDS.items() if field in body}
    found.setdefault("temperature", temperature)
    return found


def includes_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream ends with what it used."""
    options = body.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise RequestError(f"stream_options is {shown(options)}, and it must be an object.", "stream_options")
    return flag({name: value for name, value in options.items() if value is not None}, "include_usage")

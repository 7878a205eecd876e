"""Bodies of Ollama's chat and generate, as requests (https://github.com/ollama/ollama/blob/main/docs/api.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_hookspecs import Prompt, RequestError
from llmasos_serve_http.asked import Asked
from llmasos_serve_http.fields import flag, model_of, refuse, shown
from llmasos_serve_http.images import with_images

OPTIONS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
#: Where none is named, as Ollama has it.
_TEMPERATURE: Final = 0.8
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "suffix": ("",),
    "template": ("",),
    "context": ([],),
    "logprobs": (False,),
}
REFUSED_OPTIONS: Final[Mapping[str, tuple[Any, ...]]] = {"mirostat": (0,), "typical_p": (1,), "tfs_z": (1,)}


def chat_asked(body: Mapping[str, Any]) -> Asked:
    """What a body of ``/api/chat`` asks for. Raises ``RequestError``."""
    messages = body.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError("messages must be a list of at least one message.", "messages")
    asked = _asked(body, [_message(place, message) for place, message in enumerate(messages)])
    return attrs.evolve(asked, sampling={**asked.sampling, "tools": body["tools"]}) if body.get("tools") else asked


def generate_asked(body: Mapping[str, Any]) -> Asked:
    """What a body of ``/api/generate`` asks for: its prompt is a chat message unless it is ``raw``. Raises ``RequestError``."""
    prompt, system = body.get("prompt"), body.get("system", "")
    if not isinstance(prompt, str) or not isinstance(system, str):
        raise RequestError("prompt and system must be texts.", "prompt")
    if flag(body, "raw"):
        refuse(body, {"system": ("",), "images": ([],)})
        return _asked(body, prompt)
    messages = [{"role": "system", "content": system}] if system else []
    return _asked(body, [*messages, {"role": "user", "content": with_images(prompt, body.get("images"), "images")}])


def name_of(body: Mapping[str, Any]) -> str | None:
    """The model, without Ollama's tag for the newest; None: the default."""
    model = model_of(body)
    return None if model is None else model.removesuffix(":latest")


def _asked(body: Mapping[str, Any], prompt: Prompt) -> Asked:
    refuse(body, REFUSED)
    options = body.get("options", {})
    if not isinstance(options, Mapping):
        raise RequestError(f"options is {shown(options)}, and it must be an object.", "options")
    given = {name: value for name, value in options.items() if value is not None}
    refuse(given, REFUSED_OPTIONS, "options.")
    sampling = {argument: given[name] for name, argument in OPTIONS.items() if name in given}
    sampling.setdefault("temperature", _TEMPERATURE)
    count = given.get("num_predict", -1)
    sampling["max_new_tokens"] = "context" if count in (-1, -2) else count
    if isinstance(seed := sampling.get("seed"), int) and seed < 0:  # a fresh one
        del sampling["seed"]
    if flag(body, "think"):
        sampling["reasoning"] = True
    elif "think" in body and not isinstance(prompt, str):
        sampling["reasoning"] = False
    if (schema := _schema(body)) is not None:
        sampling["schema"] = schema
    return Asked(prompt=prompt, model=name_of(body), sampling=sampling, stream="stream" not in body or flag(body, "stream"))


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    match body.get("format", ""):
        case "":
            return None
        case "json":
            return {"type": "object"}
        case Mapping() as schema:
            return schema
    raise RequestError(f'format is {shown(body["format"])}, and it must be "json" or a JSON Schema.', "format")


def _message(place: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"messages[{place}] must be an object with role and content.", f"messages[{place}]")
    found = {name: value for name, value in message.items() if value is not None}
    images, found = found.pop("images", None), {"content": "", **found}
    if images and not isinstance(found["content"], str):
        raise RequestError(f"messages[{place}].content must be a text.", f"messages[{place}].content")
    return {**found, "content": with_images(found["content"], images, f"messages[{place}].images")} if images else found

"""Fields of a body that protocols share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import RequestError


def refuse(body: Mapping[str, Any], fields: Mapping[str, tuple[Any, ...]], prefix: str = "") -> None:
    """Raise ``RequestError`` for one of ``fields`` whose value is none of those that ask for what the server does anyway.

    ``prefix``: where the fields stand in the whole body.
    """
    for name, harmless in fields.items():
        if name in body and not any(body[name] == value and isinstance(body[name], bool) == isinstance(value, bool) for value in harmless):
            sentence = f"{prefix}{name} = {shown(body[name])} is not supported, and the answer would be another; leave it out."
            raise RequestError(sentence, f"{prefix}{name}")


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; false where it is left out. Raises ``RequestError``."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{name} is {shown(value)}, and it must be true or false.", name)
    return value


def model_of(body: Mapping[str, Any]) -> str | None:
    """The model that is asked for; None: the default."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(f"model is {shown(model)}, and it must be a name.", "model")
    return model or None


def shown(value: Any) -> str:
    """A value in an error's sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

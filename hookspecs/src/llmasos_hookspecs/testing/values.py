"""Whether a value has the type that an annotation names, checked all the way down."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs


def type_problems(value: Any, hint: Any, path: str = "value") -> Iterator[str]:
    """One sentence for each part of ``value`` that is not of the type ``hint``; nothing where all of it is.

    Knows attrs classes, unions, literals, tuples, sequences, mappings and plain classes. A float must be finite, and an int is a
    float but a bool is no int, as in JSON. ``choices`` in a field's metadata are checked too.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if origin in (types.UnionType, typing.Union):
        if not any(not list(type_problems(value, option, path)) for option in arguments):
            yield f"{path} is {value!r}, and it must be {hint}."
    elif origin is Literal:
        if value not in arguments:
            yield f"{path} is {value!r}, and it must be one of {arguments}."
    elif isinstance(hint, type) and attrs.has(hint):
        yield from _fields(value, hint, path)
    elif origin is tuple:
        yield from _tuple(value, arguments, path)
    elif origin in (list, Sequence):
        yield from _plain(value, list if origin is list else (list, tuple), path)
        for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
            yield from type_problems(item, arguments[0], f"{path}[{index}]")
    elif origin in (dict, Mapping):
        yield from _plain(value, dict, path)
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from type_problems(key, arguments[0], f"{path} key")
            yield from type_problems(item, arguments[1], f"{path}[{key!r}]")
    else:
        yield from _plain(value, type(None) if hint is None else hint, path)


def _fields(value: Any, cls: type, path: str) -> Iterator[str]:
    if not isinstance(value, cls):
        yield f"{path} is {value!r}, and it must be a {cls.__name__}."
        return
    hints = typing.get_type_hints(cls)
    for field in attrs.fields(cls):
        item = getattr(value, field.name)
        yield from type_problems(item, hints[field.name], f"{path}.{field.name}")
        choices = field.metadata.get("choices")
        if choices and item not in choices:
            yield f"{path}.{field.name} is {item!r}, and it must be one of {choices}."


def _tuple(value: Any, arguments: tuple[Any, ...], path: str) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield f"{path} is {value!r}, and it must be a tuple."
    elif len(arguments) == 2 and arguments[1] is Ellipsis:
        for index, item in enumerate(value):
            yield from type_problems(item, arguments[0], f"{path}[{index}]")
    elif len(value) != len(arguments):
        yield f"{path} has {len(value)} items, and it must have {len(arguments)}."
    else:
        for index, (item, hint) in enumerate(zip(value, arguments, strict=True)):
            yield from type_problems(item, hint, f"{path}[{index}]")


def _plain(value: Any, cls: type | tuple[type, ...], path: str) -> Iterator[str]:
    if cls is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        good = isinstance(value, cls) and not (cls is int and isinstance(value, bool))
    if not good:
        name = cls.__name__ if isinstance(cls, type) else " or ".join(item.__name__ for item in cls)
        yield f"{path} is {value!r}, and it must be {name}."

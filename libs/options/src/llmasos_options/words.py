"""Types and values as a user reads them in a message or in help."""

from __future__ import annotations

import enum
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import attrs

from llmasos_hookspecs import ImageInput

_PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    bytes: "bytes",
    type(None): "nothing",
    Any: "anything",
}


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: str, key: Any) -> str:
    """The path of a key inside a table, as ``--set`` takes it: ``accelerate[1].bits``, ``models."a b"``."""
    step = str(key) if _BARE.fullmatch(str(key)) else json.dumps(str(key), ensure_ascii=False)
    return f"{path}.{step}" if path else step


def unwrapped(kind: Any) -> Any:
    """The type inside ``Annotated`` and ``NewType``."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif isinstance(kind, typing.NewType):
            kind = kind.__supertype__
        else:
            return kind


def is_image(kind: Any) -> bool:
    """Whether a type is ``ImageInput``."""
    return bool(kind == ImageInput)


def is_union(kind: Any) -> bool:
    """Whether a type is ``A | B``, spelt either way."""
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def type_in_words(kind: Any) -> str:
    """What a value of a type looks like in config: ``a whole number``, ``a list of strings``."""
    if is_image(kind):
        return "an image"
    kind = unwrapped(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return one_of(arguments)
    if is_union(kind):
        return " or ".join(type_in_words(each) for each in arguments if each is not type(None))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return one_of(member.value for member in kind)
    if isinstance(kind, type) and attrs.has(kind):
        return "a table"
    base = origin or kind
    if isinstance(base, type):
        if issubclass(base, PurePath):
            return "a path"
        if issubclass(base, Mapping):
            return f"a table whose values are each {type_in_words(arguments[1])}" if len(arguments) == 2 else "a table"
        if base is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: {', '.join(type_in_words(each) for each in arguments)}"
        if issubclass(base, Iterable):
            return f"a list whose items are each {type_in_words(arguments[0])}" if arguments else "a list"
    return f"a {getattr(base, '__name__', base)}"


def one_of(values: Iterable[Any]) -> str:
    """Allowed values in a sentence: ``one of 2, 4, 8``."""
    return "one of " + ", ".join(value_in_words(value) for value in values)


def value_in_words(value: Any) -> str:
    """A value as config would write it, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return value_in_words(value.value)
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, Mapping):
        text = "a table"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(value_in_words(each) for each in value[:8]) + (", ..." if len(value) > 8 else "") + "]"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def found_in_words(value: Any) -> str:
    """A value and what it is, for a message about a wrong type: ``"4", a string``."""
    kind = type(value)
    if kind in (bool, type(None)) or isinstance(value, Mapping | list | tuple):
        return value_in_words(value)
    return f"{value_in_words(value)}, {_PLAIN.get(kind, f'a {kind.__name__}')}"

"""Options as help text and as JSON Schema."""

from __future__ import annotations

import enum
import typing
from collections.abc import Mapping, Sequence, Set
from typing import Any

import attrs

from llmasos_options.fields import fields_of
from llmasos_options.unstructure import unstructure
from llmasos_options.words import is_image, is_union, unwrapped, value_in_words

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}
_BOUNDS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}


@attrs.frozen(kw_only=True)
class OptionField:
    """One option in words, for help and for ``--json``."""

    key: str
    type: str
    default: Any
    required: bool
    help: str


def describe(cls: type) -> tuple[OptionField, ...]:
    """The options of an attrs class in words."""
    return tuple(
        OptionField(key=field.key, type=field.allowed, default=unstructure(field.default), required=field.required, help=field.help)
        for field in fields_of(cls)
    )


def render_help(cls: type) -> str:
    """A line for each option: key, what it may be, its default, and its help; empty for a class without fields."""
    fields = describe(cls)
    width = max((len(field.key) for field in fields), default=0)
    lines = []
    for field in fields:
        state = "required" if field.required else "default: none" if field.default is None else f"default: {value_in_words(field.default)}"
        words = f" {field.help}" if field.help else ""
        lines.append(f"{field.key:<{width}}  {field.type} ({state}).{words}")
    return "\n".join(lines)


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (2020-12) of what ``structure_options`` takes for an attrs class."""
    return _object(cls, ())


def _object(cls: type, outer: tuple[type, ...]) -> dict[str, Any]:
    if cls in outer:
        return {"type": "object"}
    properties, required = {}, []
    for field in fields_of(cls):
        schema = _schema(field.type, (*outer, cls))
        if field.choices:
            schema = _with_choices(schema, list(field.choices))
        schema |= {_BOUNDS[sign]: bound for sign, bound in field.bounds.items()}
        if field.help:
            schema["description"] = field.help
        if field.required:
            required.append(field.key)
        elif field.default is not None:
            schema["default"] = unstructure(field.default)
        properties[field.key] = schema
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    return found


def _with_choices(schema: dict[str, Any], choices: list[Any]) -> dict[str, Any]:
    if schema.get("type") == "array":
        return schema | {"items": {"enum": unstructure(choices)}}
    return {"enum": unstructure(choices)}


def _schema(kind: Any, outer: tuple[type, ...]) -> dict[str, Any]:
    if is_image(kind):
        return {"type": "string", "pattern": "^data:", "contentEncoding": "base64"}
    kind = unwrapped(kind)
    if kind is Any or kind is object:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if is_union(kind):
        # TOML has no null: what may be None is simply left out.
        members = [_schema(each, outer) for each in arguments if each is not type(None)]
        return members[0] if len(members) == 1 else {"anyOf": members}
    base = origin or kind
    if not isinstance(base, type):
        return {}
    if attrs.has(base):
        return _object(base, outer)
    if issubclass(base, enum.Enum):
        return {"enum": [member.value for member in base]}
    if issubclass(base, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], outer) if len(arguments) == 2 else {}}
    if issubclass(base, Sequence | Set):
        return _array(base, arguments, outer)
    return {"type": "string"}


def _array(base: type, arguments: tuple[Any, ...], outer: tuple[type, ...]) -> dict[str, Any]:
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        count = len(arguments)
        return {"type": "array", "prefixItems": [_schema(each, outer) for each in arguments], "minItems": count, "maxItems": count}
    return {"type": "array", "items": _schema(arguments[0], outer) if arguments else {}}

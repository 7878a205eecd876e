"""Classes as JSON Schemas, and JSON as their instances: pydantic models, attrs classes and dataclasses."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import attrs

from llmasos_hookspecs import RequestError

_PLAIN: Final[Mapping[Any, str]] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
#: Classes in one another; what generates has a bound for its depth too.
_DEEPEST: Final = 16


def as_schema(schema: Any) -> Any:
    """The JSON Schema of a class, or of a generic type such as ``list[City]``; any other value as it is.

    Raises:
        RequestError: the class, or the type of one of its fields, has no JSON Schema here.
    """
    if isinstance(schema, type) or typing.get_origin(schema) is not None:
        return _schema(schema, _name(schema), 0)
    return schema


def as_object(schema: Any, text: str) -> Any:
    """JSON as an instance of the class whose schema it follows; plain data where the schema is a mapping.

    Raises:
        RequestError: the class refuses the values, by a validator of its own.
    """
    value = json.loads(text)
    if not (isinstance(schema, type) or typing.get_origin(schema) is not None):
        return value
    try:
        return _built(schema, value)
    except Exception as error:  # validators are the caller's code, and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"The answer follows the schema of {_name(schema)}, and the class refuses it: {reason}.", "schema") from error


@attrs.frozen
class _Field:
    """A field of an attrs class or a dataclass; ``argument`` is what its ``__init__`` calls it."""

    key: str
    argument: str
    kind: Any
    required: bool


def _fields(kind: type) -> Iterator[_Field]:
    hints = typing.get_type_hints(kind)
    if attrs.has(kind):
        for each in attrs.fields(kind):
            if each.init:
                yield _Field(each.name, each.alias or each.name, hints.get(each.name, Any), each.default is attrs.NOTHING)
        return
    for field in dataclasses.fields(kind):
        if field.init:
            missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield _Field(field.name, field.name, hints.get(field.name, Any), missing)


def _schema(kind: Any, where: str, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise RequestError(
            f"schema holds classes in more than {_DEEPEST} levels, at {where}; give a flatter one, or a JSON Schema.", "schema"
        )
    made = getattr(kind, "model_json_schema", None)
    if callable(made):
        found: dict[str, Any] = made()
        return found
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _schema(arguments[0], where, depth)
    if kind is Any or kind is object:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(each, where, depth) for each in arguments]}
    base = origin or kind
    if isinstance(base, type):
        if attrs.has(base) or dataclasses.is_dataclass(base):
            return _object(base, where, depth)
        if issubclass(base, enum.Enum):
            return {"enum": [member.value for member in base]}
        if issubclass(base, Mapping):
            return {"type": "object", "additionalProperties": _schema(arguments[1], where, depth + 1) if len(arguments) == 2 else {}}
        if issubclass(base, Sequence | Set) and not issubclass(base, bytes):
            return _array(base, arguments, where, depth)
    raise RequestError(
        f"schema has the type {kind!r} at {where}, which has no JSON Schema here; take a pydantic model, an attrs class, a dataclass or a "
        "JSON Schema.",
        "schema",
    )


def _object(kind: type, where: str, depth: int) -> dict[str, Any]:
    fields = list(_fields(kind))
    found: dict[str, Any] = {
        "type": "object",
        "properties": {each.key: _schema(each.kind, f"{where}.{each.key}", depth + 1) for each in fields},
        "additionalProperties": False,
    }
    if required := [each.key for each in fields if each.required]:
        found["required"] = required
    return found


def _array(base: type, arguments: tuple[Any, ...], where: str, depth: int) -> dict[str, Any]:
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        items = [_schema(each, where, depth + 1) for each in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    return {"type": "array", **({"items": _schema(arguments[0], where, depth + 1)} if arguments else {})}


def _built(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that its schema was made from."""
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        return validate(value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _built(arguments[0], value)
    if origin in (typing.Union, types.UnionType):
        return _first(arguments, value)
    base = origin or kind
    if not isinstance(base, type) or base in _PLAIN:
        return float(value) if base is float else value
    if attrs.has(base) or dataclasses.is_dataclass(base):
        return base(**{each.argument: _built(each.kind, value[each.key]) for each in _fields(base) if each.key in value})
    if issubclass(base, enum.Enum):
        return base(value)
    if issubclass(base, Mapping):
        return {key: _built(arguments[1], item) for key, item in value.items()} if len(arguments) == 2 else value
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        return tuple(_built(each, item) for each, item in zip(arguments, value, strict=True))
    items = [_built(arguments[0], item) for item in value] if arguments else value
    made: Any = base if base in (tuple, set, frozenset) else list
    return made(items)


def _first(kinds: tuple[Any, ...], value: Any) -> Any:
    """The value as the first type of a union that takes it."""
    for kind in kinds:
        fits = _PLAIN.get(kind)
        if fits is not None:
            if type(value) is kind or (kind is float and type(value) is int):
                return value
            continue
        try:
            return _built(kind, value)
        except (TypeError, KeyError, ValueError, AttributeError):
            continue
    return value


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)

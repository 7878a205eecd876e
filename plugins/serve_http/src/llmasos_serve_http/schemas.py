"""JSON Schemas of bodies, made of the tables that the translators translate by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from llmasos_hookspecs import SamplingParams
from llmasos_hookspecs.sampling import Between, Whole

Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
OBJECT: Final[Schema] = {"type": "object"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 1}

#: Annotation of a field of ``SamplingParams`` -> what JSON has for it.
_TYPES: Final[Mapping[str, Schema]] = {
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "int | None": {"type": "integer"},
    "bool": FLAG,
    "tuple[str, ...]": {"type": ["string", "array"], "minLength": 1, "items": {"type": "string", "minLength": 1}},
    "Mapping[int, float]": {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": {"type": "number"}},
}
#: Arguments of ``Runtime.generate`` that are no fields of ``SamplingParams``.
_OTHERS: Final[Mapping[str, Schema]] = {
    "max_new_tokens": COUNT,
    "schema": OBJECT,
    "regex": TEXT,
    "choices": {"type": "array", "items": TEXT, "minItems": 1},
    "grammar": TEXT,
    "template_arguments": OBJECT,
}


def argument(name: str) -> Schema:
    """An argument of ``Runtime.generate``, with the bounds that the runtime checks."""
    if name in _OTHERS:
        return _OTHERS[name]
    field = attrs.fields_dict(SamplingParams)[name]
    schema = dict(_TYPES[str(field.type)])
    match field.validator:
        case Between(low=low, high=high):
            schema |= {"minimum": low, "maximum": high}
        case Whole(low=low):
            schema["minimum"] = low
    return schema


def arguments(fields: Mapping[str, str]) -> dict[str, Schema]:
    """Fields of a body -> arguments of the runtime, as schemas."""
    return {field: argument(name) for field, name in fields.items()}


def harmless(fields: Mapping[str, tuple[Any, ...]]) -> dict[str, Schema]:
    """Fields that are refused unless they have one of these values; as ``fields.refuse`` takes them."""
    return {field: {"enum": list(values), "description": "Other values are refused."} for field, values in fields.items()}


def body(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    """A body with these fields. Those that are not required may be null, and fields that it does not name are accepted."""
    needed = list(required)
    return {
        "type": "object",
        "properties": {name: schema if name in needed else nullable(schema) for name, schema in properties.items()},
        "required": needed,
    }


def nullable(schema: Schema) -> Schema:
    """The same, or null; as it is where it may be null already."""
    if "enum" in schema:
        return schema if None in schema["enum"] else {**schema, "enum": [*schema["enum"], None]}
    kind = schema.get("type")
    if kind is None:
        return {"anyOf": [schema, {"type": "null"}]}
    kinds = [kind] if isinstance(kind, str) else kind
    return schema if "null" in kinds else {**schema, "type": [*kinds, "null"]}


def answer(**properties: Schema) -> Schema:
    """An object that has all of these fields, and perhaps more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def listed(items: Schema) -> Schema:
    """A list in OpenAI's form."""
    return answer(object={"const": "list"}, data={"type": "array", "items": items})

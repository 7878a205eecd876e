"""Typed parameters as a JSON Schema, and arguments of it as values of their types."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import attrs

from llmasos_app_assistant.tools.tool import ToolError
from llmasos_hookspecs import ConfigError

#: Keywords of a schema for people, of which the description alone helps a model.
_FOR_PEOPLE: Final = ("title",)
REQUIRED: Final = object()


@attrs.frozen(kw_only=True)
class Parameter:
    """A parameter: its type, its default or ``REQUIRED``, one sentence, and the values allowed, where they are few."""

    name: str
    type: Any
    default: Any = REQUIRED
    help: str = ""
    choices: tuple[Any, ...] = ()


class Signature:
    """Parameters that arguments are read by, strictly: nothing is dropped, and each problem is told.

    Attributes:
        schema: of the arguments.
    """

    def __init__(self, label: str, parameters: Sequence[Parameter]) -> None:
        """``label`` is for messages. Raises ``ConfigError`` for a type that has no JSON Schema."""
        import pydantic

        fields: dict[str, Any] = {}
        for number, each in enumerate(parameters):
            kind = Literal[each.choices] if each.choices and each.type is str else each.type
            described = pydantic.Field(alias=each.name, description=each.help or None)
            # The fields have names of their own, so that no parameter shares one with a method of the class.
            fields[f"p{number}"] = (Annotated[kind, described], ... if each.default is REQUIRED else each.default)
        config = pydantic.ConfigDict(extra="forbid", protected_namespaces=())
        try:
            self._model: Any = pydantic.create_model("Arguments", __config__=config, **fields)
            schema = self._model.model_json_schema()
        except (pydantic.PydanticUserError, pydantic.PydanticSchemaGenerationError, TypeError) as error:
            first = str(error).splitlines()[0].rstrip(".")
            raise ConfigError(f"The {label} cannot be a tool, because its parameters have no JSON Schema ({first}).") from error
        self.schema: Final[Mapping[str, Any]] = _bare(schema)
        self._names = [each.name for each in parameters]

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Values by parameter. Raises ``ToolError`` with a sentence for each problem."""
        import pydantic

        try:
            found = self._model.model_validate(dict(arguments))
        except pydantic.ValidationError as error:
            problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False))
            raise ToolError(f"The arguments are not accepted: {'; '.join(problems)}.") from error
        given = found.model_fields_set
        return {name: getattr(found, f"p{number}") for number, name in enumerate(self._names) if f"p{number}" in given}


def attrs_parameters(cls: type) -> list[Parameter]:
    """The fields of an attrs class that its ``__init__`` takes."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in attrs.fields(cls):
        if not field.init:
            continue
        default: Any = REQUIRED if field.default is attrs.NOTHING else field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types its class as a function
            default = default.factory() if not default.takes_self else None
        found.append(
            Parameter(
                name=field.alias or field.name,
                type=hints.get(field.name, Any),
                default=default,
                help=str(field.metadata.get("help", "")),
                choices=tuple(field.metadata.get("choices", ())),
            )
        )
    return found


def _bare(schema: Any) -> Any:
    """A schema without what is for people alone; a property of such a name stays."""
    if isinstance(schema, Mapping):
        return {
            key: {name: _bare(each) for name, each in value.items()} if key in ("properties", "$defs") else _bare(value)
            for key, value in schema.items()
            if not (key in _FOR_PEOPLE and isinstance(value, str))
        }
    return [_bare(each) for each in schema] if isinstance(schema, list) else schema


def as_text(value: Any) -> str:
    """What a tool gave back, as a model reads it: a text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    import pydantic_core

    return pydantic_core.to_json(value, fallback=_plain, bytes_mode="base64", inf_nan_mode="strings").decode()


@functools.singledispatch
def _plain(value: Any) -> Any:
    """What JSON has no form for."""
    return attrs.asdict(value, recurse=False) if attrs.has(type(value)) else str(value)

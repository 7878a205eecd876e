"""The functions that a model may call, and whether it must: a request's ``tools`` and ``tool_choice`` in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from llmasos_hookspecs import RequestError

#: Longest name, in characters; OpenAI's bound is 64, MCP servers have longer ones.
_LONGEST_NAME: Final = 256
#: Keywords of a schema beside ``properties`` that may allow further properties.
_OPENING: Final = frozenset({"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "unevaluatedProperties"})


@attrs.frozen
class Function:
    """A function that may be called; ``parameters`` is the JSON Schema of its arguments, an object."""

    name: str
    parameters: Mapping[str, Any]

    def values(self) -> frozenset[str]:
        """The parameters whose values are JSON where others are written as plain texts: all but those that can be texts alone."""
        properties = self.parameters.get("properties")
        if not isinstance(properties, Mapping):
            return frozenset()
        return frozenset(name for name, schema in properties.items() if not is_text(schema))


def is_text(schema: Any) -> bool:
    """Whether a JSON Schema plainly allows texts alone."""
    if not isinstance(schema, Mapping):
        return False
    if schema.get("type") == "string":
        return True
    words = [schema["const"]] if "const" in schema else schema.get("enum")
    return isinstance(words, list) and bool(words) and all(isinstance(word, str) for word in words)


@attrs.frozen
class ToolChoice:
    """Whether functions are called.

    Attributes:
        mode: ``auto``: the model may call some; ``required``: it calls at least one; ``none``: it knows of none.
        name: the one function that it calls, once, where ``mode`` is ``required``; None: any.
        allowed: of which functions it may call some; None: of all.
    """

    mode: Literal["auto", "required", "none"] = "auto"
    name: str | None = None
    allowed: frozenset[str] | None = None

    def allows(self, name: str) -> bool:
        """Whether a function may be called."""
        return self.name in (None, name) and (self.allowed is None or name in self.allowed)


def functions_of(tools: Sequence[Any]) -> tuple[Function, ...]:
    """The functions that ``tools`` describe.

    A schema that does not say whether it allows further properties allows none: a function takes what it declares.

    Raises:
        RequestError: one describes no function, or two have one name.
    """
    found: dict[str, Function] = {}
    for place, tool in enumerate(tools):
        function = _function(f"tools[{place}]", tool)
        if function.name in found:
            raise RequestError(f"tools[{place}] has the name {function.name!r}, and so has another; give each its own.", "tools")
        found[function.name] = function
    return tuple(found.values())


def choice_of(value: Any, functions: Sequence[Function]) -> ToolChoice:
    """What ``tool_choice`` says: ``none``, ``auto``, ``required``, the name of a function in OpenAI's form, or its ``allowed_tools``; None
    is ``auto``.

    Raises:
        RequestError: it says none of these, or names a function that there is not.
    """
    match value:
        case None:
            return ToolChoice()
        case "auto" | "none":
            return ToolChoice(value)
        case "required":
            chosen = ToolChoice("required")
        case {"type": "function", "function": {"name": str() as name}}:
            chosen = ToolChoice("required", _known(name, functions))
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [_, *_] as tools}}:
            chosen = ToolChoice(mode, allowed=frozenset(_known(_named(place, tool), functions) for place, tool in enumerate(tools)))
        case _:
            raise RequestError(
                f'tool_choice is {_shown(value)}, and it must be "auto", "none", "required", name a function: '
                '{"type": "function", "function": {"name": "..."}}, or several: {"type": "allowed_tools", "allowed_tools": {"mode": '
                '"auto", "tools": [...]}}.',
                "tool_choice",
            )
    if not functions:
        raise RequestError("tool_choice asks for a call, and there are no tools; give some, or leave it out.", "tool_choice")
    return chosen


def _named(place: int, tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str() as name}}:
            return name
    raise RequestError(
        f'tool_choice.allowed_tools.tools[{place}] is {_shown(tool)}, and it must name a function: {{"type": "function", "function": '
        '{"name": "..."}}.',
        "tool_choice",
    )


def _known(name: str, functions: Sequence[Function]) -> str:
    if name not in {function.name for function in functions}:
        raise RequestError(f"tool_choice names {_shown(name)}, which is none of the tools.", "tool_choice")
    return name


def _function(where: str, tool: Any) -> Function:
    if not isinstance(tool, Mapping) or tool.get("type", "function") != "function" or not isinstance(tool.get("function"), Mapping):
        raise RequestError(f'{where} describes no function; give {{"type": "function", "function": {{...}}}}.', "tools")
    function = tool["function"]
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME:
        raise RequestError(f"{where}.function.name is {_shown(name)}, and it must be a name of 1 to {_LONGEST_NAME} characters.", "tools")
    if parameters is None:
        return Function(name, {"type": "object", "properties": {}, "additionalProperties": False})
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise RequestError(f"{where}.function.parameters is {_shown(parameters)}, and it must be the JSON Schema of an object.", "tools")
    closed = {} if "additionalProperties" in parameters or _OPENING & parameters.keys() else {"additionalProperties": False}
    return Function(name, {"type": "object", **parameters, **closed})


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Python functions as tools: their type hints are the schema, their docstring the description."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, overload

from llmasos_app_assistant.tools.signature import REQUIRED, Parameter, Signature
from llmasos_app_assistant.tools.tool import Decision, Scope, Tool, tool_name
from llmasos_hookspecs import ConfigError

#: The section of a docstring that describes arguments, in Google's form, and what begins another.
_ARGUMENTS: Final = re.compile(r"^\s*(?:Args|Arguments|Parameters):\s*$")
_SECTION: Final = re.compile(r"^\s*[A-Z]\w*:\s*$")
_ARGUMENT: Final = re.compile(r"^\s*(\w+)(?:\s*\([^)]*\))?:\s*(.+)$")

Function = Callable[..., Any]


@overload
def tool(function: Function, /) -> Tool: ...
@overload
def tool(
    *, name: str = "", description: str = "", repeatable: bool = False, decision: Decision = "allow"
) -> Callable[[Function], Tool]: ...
def tool(
    function: Function | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    repeatable: bool = False,
    decision: Decision = "allow",
) -> Tool | Callable[[Function], Tool]:
    """A function as a tool, also as a decorator.

    Args:
        function: its parameters have type hints; a coroutine function is awaited. A parameter of type ``Scope`` gets the call's.
        name: of the tool; empty: the function's.
        description: for the model; empty: the docstring without its section of arguments, whose lines describe the parameters.
        repeatable: it is safe to run it again after a kill.
        decision: what happens with calls that no rule of the policy matches.

    Raises:
        ConfigError: a parameter has no type hint, or one without a JSON Schema, or cannot be given by name.
    """
    if function is None:
        return lambda found: _made(found, name, description, repeatable, decision)
    return _made(function, name, description, repeatable, decision)


def function_named(path: str, decision: Decision = "ask") -> Tool:
    """The tool of the function ``module:name``, or the ``Tool`` that stands there. Raises ``ConfigError`` where there is none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f'functions names "{path}", and that cannot be imported ({error}); write "module:function".') from error
    if isinstance(found, Tool):
        return found
    if not callable(found):
        raise ConfigError(f'functions names "{path}", which is no function.')
    return tool(decision=decision)(found)


def _made(function: Function, name: str, description: str, repeatable: bool, decision: Decision) -> Tool:
    label = f"function {getattr(function, '__name__', repr(function))}"
    shown, lines = _documented(inspect.getdoc(function) or "")
    try:
        signature, hints = inspect.signature(function), typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"The {label} cannot be a tool, because its signature cannot be read ({error}).") from error
    scoped, parameters = "", []
    for each in signature.parameters.values():
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise ConfigError(f"The {label} cannot be a tool, because its parameter {each.name} cannot be given by name.")
        if each.name not in hints:
            raise ConfigError(f"The {label} cannot be a tool, because its parameter {each.name} has no type hint; write one.")
        if hints[each.name] is Scope:
            scoped = each.name
            continue
        default = REQUIRED if each.default is each.empty else each.default
        parameters.append(Parameter(name=each.name, type=hints[each.name], default=default, help=lines.get(each.name, "")))
    read = Signature(label, parameters)

    def run(arguments: Mapping[str, Any], scope: Scope) -> Any:
        given = read.read(arguments) | ({scoped: scope} if scoped else {})
        result = function(**given)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

    found = tool_name(name or getattr(function, "__name__", ""))
    if not found:
        raise ConfigError(f"The {label} has no name that a tool can have; give one.")
    return Tool(name=found, description=description or shown, parameters=read.schema, run=run, repeatable=repeatable, decision=decision)


async def _awaited(result: Any) -> Any:
    return await result


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """A docstring without its section of arguments, and what that says of each."""
    kept: list[str] = []
    found: dict[str, str] = {}
    inside, last = False, ""
    for line in text.splitlines():
        if _ARGUMENTS.match(line):
            inside = True
        elif inside and (match := _ARGUMENT.match(line)):
            last = match[1]
            found[last] = match[2].strip()
        elif inside and line.strip() and not _SECTION.match(line) and line[:1].isspace():
            found[last] = f"{found.get(last, '')} {line.strip()}".strip()
        elif line.strip() or not inside:
            inside = False
            kept.append(line)
    return "\n".join(kept).strip(), found

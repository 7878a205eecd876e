"""Anthropic's tools and thinking, as the runtime's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import RequestError
from llmasos_serve_http.fields import flag, shown


def tools_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a body says of ``tools``, ``tool_choice`` and ``thinking``. Raises ``RequestError``."""
    found = _thinking(body)
    tools = body.get("tools", [])
    if not isinstance(tools, list):
        raise RequestError(f"tools is {shown(tools)}, and it must be a list of tools.", "tools")
    choice = body.get("tool_choice", {"type": "auto"})
    if not tools:
        if not isinstance(choice, Mapping) or choice.get("type") not in ("auto", "none"):
            raise RequestError("tool_choice asks for a call, and there are no tools; give some, or leave it out.", "tool_choice")
        return found
    found |= {"tools": [_tool(f"tools[{place}]", tool) for place, tool in enumerate(tools)], "tool_choice": _choice(choice)}
    if flag(choice, "disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def _tool(where: str, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or tool.get("type", "custom") not in ("custom", None):
        raise RequestError(f"{where} is no tool of the client's own, and this server has none of Anthropic's.", "tools")
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool.get("input_schema")}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _choice(choice: Any) -> Any:
    match choice:
        case {"type": "auto" | "none"}:
            return choice["type"]
        case {"type": "any"}:
            return "required"
        case {"type": "tool", "name": str() as name}:
            return {"type": "function", "function": {"name": name}}
    raise RequestError(f'tool_choice is {shown(choice)}, and its type must be "auto", "any", "tool" or "none".', "tool_choice")


def _thinking(body: Mapping[str, Any]) -> dict[str, Any]:
    """How long a model reasons is its own; ``max_tokens`` bounds that too."""
    match body.get("thinking"):
        case None | {"type": "adaptive"}:
            return {}
        case {"type": "enabled"}:
            return {"reasoning": True}
        case {"type": "disabled"}:
            return {"reasoning": False}
    raise RequestError(f'thinking is {shown(body["thinking"])}, and its type must be "enabled", "disabled" or "adaptive".', "thinking")

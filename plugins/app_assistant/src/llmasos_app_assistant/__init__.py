"""An assistant that uses tools until it can answer: the task ``assist``, the verb of that name, and ``Assistant`` for Python.

A name is imported with its module when it is first used: the verb is listed without what it needs when it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmasos_app_assistant.assistant import Answer as Answer, Assistant as Assistant
    from llmasos_app_assistant.bounds import Bounds as Bounds
    from llmasos_app_assistant.listeners import CallEvent as CallEvent, Listener as Listener, listening as listening
    from llmasos_app_assistant.policy import Rule as Rule
    from llmasos_app_assistant.tools.functions import tool as tool
    from llmasos_app_assistant.tools.tool import Scope as Scope, Tool as Tool, ToolError as ToolError, ToolSource as ToolSource

_MODULES: Final = {
    **dict.fromkeys(("Answer", "Assistant"), "assistant"),
    "Bounds": "bounds",
    **dict.fromkeys(("CallEvent", "Listener", "listening"), "listeners"),
    "Rule": "policy",
    "tool": "tools.functions",
    **dict.fromkeys(("Scope", "Tool", "ToolError", "ToolSource"), "tools.tool"),
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

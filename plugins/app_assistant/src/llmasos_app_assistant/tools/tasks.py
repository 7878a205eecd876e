"""Installed tasks as tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmasos_app_assistant.tools.signature import Signature, as_text, attrs_parameters
from llmasos_app_assistant.tools.tool import Scope, Tool, tool_name
from llmasos_hookspecs import ConfigError, Context, Task

#: The task whose tools these are.
OWN: Final = "assist"


def task_tool(name: str, context: Context) -> Tool:
    """The tool that runs an installed task on the model that calls it. Raises ``PluginError`` where there is none of the name."""
    if name == OWN:
        raise ConfigError(f"tasks names {OWN} itself, which would call itself without end; leave it out.")
    reached = context.component("task", name)
    task: Task = reached.make()
    signature = Signature(f"task {name}", attrs_parameters(task.inputs))

    def run(arguments: Mapping[str, Any], scope: Scope) -> str:
        output = task.run(scope.model, task.inputs(**signature.read(arguments)))
        worded = any("__str__" in vars(cls) for cls in type(output).__mro__[:-1])
        return str(output) if worded else as_text(output)

    return Tool(name=tool_name(name), description=reached.component.summary, parameters=signature.schema, run=run, decision="allow")

"""``llmasos plugins export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Write the installed plugins with their versions, for another machine.", examples=("llmasos plugins export plugins.txt",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_plugins.verbs import make_export  # the library for command lines is imported when the verb runs

    return make_export(context)

"""``llmasos plugins install``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Install plugins with pip, after showing what would change.", examples=("llmasos plugins install fair --dry-run",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_plugins.verbs import make_install  # the library for command lines is imported when the verb runs

    return make_install(context)

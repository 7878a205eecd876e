"""``llmasos plugins uninstall``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Remove plugins with pip, after showing what would go.",
        examples=("llmasos plugins uninstall fair",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_plugins.verbs import make_uninstall  # the library for command lines is imported when the verb runs

    return make_uninstall(context)

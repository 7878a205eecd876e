"""``llmasos plugins restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Install the plugins of an exported file, in those versions.", examples=("llmasos plugins restore plugins.txt",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_plugins.verbs import make_restore  # the library for command lines is imported when the verb runs

    return make_restore(context)

"""``llmasos ps``: the models of every process of this user, and what they are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="List the models of every process of this user, and what they are doing.", examples=("llmasos ps", "llmasos ps --json")
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_devtools.processes.verbs import make_ps

    return make_ps(context)

"""``llmasos plugins new``: writes a whole plugin package to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Write a whole plugin package that passes its own tests.", examples=("llmasos plugins new scheduler my-sched",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_devtools.new.verb import make

    return make(context)

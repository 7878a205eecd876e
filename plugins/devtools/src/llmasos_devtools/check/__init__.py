"""``llmasos plugins check``: a plugin against the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Try a plugin against the contract.", examples=("llmasos plugins check scheduler:fifo", "llmasos plugins check ./my-sched")
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_devtools.check.verb import make

    return make(context)

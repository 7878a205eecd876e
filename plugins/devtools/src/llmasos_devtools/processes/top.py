"""``llmasos top``: what ``llmasos ps`` lists, live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Show live what the models of every process of this user are doing.",
        examples=("llmasos top", "llmasos top --interval 5 --count 10"),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_devtools.processes.verbs import make_top

    return make_top(context)

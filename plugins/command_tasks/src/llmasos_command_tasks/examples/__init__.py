"""LLMasOS command ``evaluate --task``: models compared on a task with the user's own examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Compare models on a task with examples of your own.",
        examples=("llmasos evaluate --task sentiment smollm2 reviews.csv",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_tasks.examples.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

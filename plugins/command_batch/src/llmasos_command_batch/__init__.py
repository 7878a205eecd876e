"""LLMasOS command ``task --batch``: a task on each row of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Run a task on each row of a file, with continuous batching; a run that was stopped goes on.",
        examples=("llmasos task translate --batch rows.csv --output answers.jsonl --target French",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_batch.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

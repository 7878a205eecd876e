"""LLMasOS command ``assist``: an assistant with tools at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Talk with an assistant that uses tools; it shows each call, and asks before those that a rule says so about.",
        examples=(
            'llmasos assist --calculator "What is 17 % of 2,340?"',
            "llmasos assist --files . --documents notes.txt",
            "llmasos assist --resume otters",
        ),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_app_assistant.terminal.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

"""LLMasOS command ``chat``: a conversation with a model at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Talk with a model at the terminal; conversations are kept, and resumed.",
        examples=("llmasos chat", 'llmasos chat "Why is the sky blue?"', "llmasos chat --resume otters"),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_app_text.terminal.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

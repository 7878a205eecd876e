"""LLMasOS command ``sure``: how sure a model is of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="How sure a model is of a text.", examples=('llmasos sure "The sky is blue."',))


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from command_sure.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

"""LLMasOS command ``models rekey``: change who can open a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Change who can open a sealed model.", examples=("llmasos models rekey sealed --to age1... --identity identity.txt",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_seal.verbs import rekey  # the library for command lines is imported when the verb runs

    return rekey(context)

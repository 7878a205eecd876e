"""LLMasOS command ``models unseal``: decrypt a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Write the files of a sealed model in the clear.",
        examples=("llmasos models unseal sealed --identity identity.txt --output plain",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_seal.verbs import unseal  # the library for command lines is imported when the verb runs

    return unseal(context)

"""LLMasOS command ``models keygen``: make a key pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Make an age identity that opens sealed models, or a key that signs them.", examples=("llmasos models keygen identity.txt",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_seal.verbs import keygen  # the library for command lines is imported when the verb runs

    return keygen(context)

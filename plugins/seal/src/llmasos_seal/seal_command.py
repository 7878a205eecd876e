"""LLMasOS command ``models seal``: encrypt a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Encrypt a model for chosen recipients, and sign it.",
        examples=("llmasos models seal smollm2 --to age1... --output sealed",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_seal.verbs import seal  # the library for command lines is imported when the verb runs

    return seal(context)

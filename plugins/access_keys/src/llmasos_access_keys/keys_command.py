"""LLMasOS command ``keys``: make, list, rotate and revoke API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Make, list, rotate and revoke the API keys of servers.",
        examples=("llmasos keys create reader --tenant library --tokens-per-day 100000 --expires 90d",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_access_keys.keys_verbs import make  # the library for command lines is imported when the verb runs

    return make(context)

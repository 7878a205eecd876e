"""LLMasOS command ``logs``: the conversations that ``run``, ``chat`` and the task ``chat`` kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="List, show, search and clear the conversations that were kept.",
        examples=("llmasos logs list", "llmasos logs show", 'llmasos logs search "otters"', "llmasos logs clear --days 30"),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_app_text.logs.verbs import make  # the library for command lines is imported when the verb runs

    return make(context)

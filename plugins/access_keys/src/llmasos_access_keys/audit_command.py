"""LLMasOS command ``audit``: check and show the audit log of servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Check that the audit log of servers is as it was written, and show it.",
        examples=("llmasos audit verify", "llmasos audit show --outcome denied"),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_access_keys.audit_verbs import make  # the library for command lines is imported when the verb runs

    return make(context)

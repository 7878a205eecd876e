"""LLMasOS command ``evaluate``: models side by side, by suites or on a task with examples of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Measure models: perplexity, divergence, size and speed, or with --task how well they do a task; or by installed suites.",
        examples=("llmasos evaluate smollm2 --windows 8",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_suite_quality.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

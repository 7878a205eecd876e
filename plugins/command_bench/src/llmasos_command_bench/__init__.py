"""LLMasOS command ``bench``: how fast models serve here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="How fast models serve here, each on each loader, taken in turn: first token, prefill and decode.",
        examples=("llmasos bench smollm2 --loader onnx --loader torch --batch 8",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_command_bench.verb import make  # the library for command lines is imported when the verb runs

    return make(context)

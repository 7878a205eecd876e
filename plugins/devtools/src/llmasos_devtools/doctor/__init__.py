"""``llmasos doctor``: what this machine is, what works here, and whether a model is computed right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Look at the hardware, the versions and every plugin; or compare a model with a slow reference.",
        examples=("llmasos doctor", "llmasos doctor smollm2 --loader onnx"),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_devtools.doctor.verb import make

    return make(context)

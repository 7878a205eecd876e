"""LLMasOS command ``models sign``: signatures that OpenSSF `model-signing` reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Sign a model in the format of OpenSSF model-signing.", examples=("llmasos models sign ./model --key openssf.pem",)
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_seal.signing_verbs import sign  # the library for command lines is imported when the verb runs

    return sign(context)

"""LLMasOS command ``models check-signature``: signatures that OpenSSF `model-signing` reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import CommandContext, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Command


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Check a model's signature in the format of OpenSSF model-signing.",
        examples=("llmasos models check-signature ./model --key openssf.pem.pub",),
    )


@hookimpl
def llmasos_command(context: CommandContext) -> Command:
    from llmasos_seal.signing_verbs import check_signature  # the library for command lines is imported when the verb runs

    return check_signature(context)

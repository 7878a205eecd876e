"""The transcriber ``sphinx``: spoken commands, by PocketSphinx."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, Transcriber, hookimpl
from llmasos_voice_sphinx.options import Options


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Spoken commands: what may be said is a list or a grammar.",
        options=Options,
        frameworks={"pocketsphinx": "pocketsphinx"},
        examples=("""llmasos config check --set transcriber.use=sphinx --set 'transcriber.commands=["lights on"]'""",),
    )


@hookimpl
def llmasos_create_transcriber(options: Options, context: Context) -> Transcriber:
    from llmasos_voice_sphinx.transcriber import Sphinx

    return Sphinx(options)

"""The transcriber ``whisper``: Whisper models in the form of faster-whisper."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, Transcriber, hookimpl
from llmasos_voice_whisper.options import Options


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Speech to text with Whisper models.",
        options=Options,
        frameworks={"faster_whisper": "faster-whisper"},
        examples=("llmasos config check --set transcriber.use=whisper",),
    )


@hookimpl
def llmasos_create_transcriber(options: Options, context: Context) -> Transcriber:
    from llmasos_voice_whisper.transcriber import make

    return make(options, context)

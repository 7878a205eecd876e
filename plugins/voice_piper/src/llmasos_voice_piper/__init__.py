"""The speaker ``piper``: voices of Piper, computed by piper-tts."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, Speaker, hookimpl
from llmasos_voice_piper.options import Options


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Text to speech with Piper voices.",
        options=Options,
        frameworks={"piper": "piper-tts", "onnxruntime": "onnxruntime"},
        examples=("llmasos config check --set speaker.use=piper",),
    )


@hookimpl
def llmasos_create_speaker(options: Options, context: Context) -> Speaker:
    from llmasos_voice_piper.speaker import make

    return make(options, context)

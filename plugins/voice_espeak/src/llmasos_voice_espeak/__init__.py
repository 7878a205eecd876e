"""The speaker ``espeak``: espeak-ng, in a process of its own."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, Speaker, hookimpl
from llmasos_voice_espeak.options import Options


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Text to speech in a hundred languages, by espeak-ng.",
        options=Options,
        examples=("llmasos config check --set speaker.use=espeak --set speaker.voice=de",),
    )


@hookimpl
def llmasos_create_speaker(options: Options, context: Context) -> Speaker:
    from llmasos_voice_espeak.speaker import make

    return make(options)

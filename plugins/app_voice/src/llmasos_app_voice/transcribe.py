"""Task ``transcribe``: write a recording down."""

from __future__ import annotations

import attrs

from llmasos_app_voice.audio import in_base64, recording
from llmasos_app_voice.reached import Reached
from llmasos_hookspecs import Component, Context, NoOptions, Segment, Task, TaskModel, Transcriber, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_voice_kit.resampling import Resampler


@attrs.frozen(kw_only=True)
class Inputs:
    """A recording."""

    audio: str = attrs.field(converter=in_base64, metadata={"help": "A WAV file in base64; in Python also its bytes."})
    language: str = attrs.field(
        default="", metadata={"help": "ISO 639 code of the language that is spoken; empty: as the transcriber finds."}
    )


@attrs.frozen(kw_only=True)
class Part:
    """Words that follow one another; start and end in seconds."""

    text: str
    start: float
    end: float


@attrs.frozen(kw_only=True)
class Output:
    """What was said."""

    text: str
    segments: tuple[Part, ...]
    seconds: float

    def __str__(self) -> str:
        return self.text


class Transcribe:
    """Write a recording down, with the transcriber of the config; the model is not asked."""

    inputs = Inputs
    output = Output

    def __init__(self, context: Context) -> None:
        self._transcriber: Reached[Transcriber] = Reached(context, "transcriber")

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "audio")
        sound, rate = recording(inputs.audio)
        transcriber = self._transcriber.get()
        transcription = transcriber.open(inputs.language)
        resampler = Resampler(rate, transcriber.sample_rate)
        found: list[Segment] = []
        for place in range(0, len(sound), rate):
            found += transcription.push(resampler.push(sound[place : place + rate]))
        found += [*transcription.push(resampler.finish()), *transcription.finish()]
        parts = tuple(Part(text=each.text, start=float(each.start), end=float(each.end)) for each in found)
        return Output(text=" ".join(part.text for part in parts), segments=parts, seconds=len(sound) / rate)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Write a recording down.",
        examples=("llmasos task transcribe --audio -", 'model.run("transcribe", audio=Path("question.wav").read_bytes())'),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Transcribe(context)

"""Task ``speak``: say a text aloud."""

from __future__ import annotations

import attrs
import numpy as np

from llmasos_app_voice.audio import in_base64
from llmasos_app_voice.reached import Reached
from llmasos_hookspecs import Component, Context, RequestError, Speaker, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_voice_kit.resampling import resampled
from llmasos_voice_kit.wav import pcm_bytes, write_wav


@attrs.frozen(kw_only=True)
class Options:
    """Options of the task."""

    max_characters: int = attrs.field(default=10_000, validator=attrs.validators.ge(1), metadata={"help": "Longest text that is said."})


@attrs.frozen(kw_only=True)
class Inputs:
    """A text to say."""

    text: str = attrs.field(metadata={"help": "The text to say."})
    form: str = attrs.field(
        default="wav",
        validator=attrs.validators.in_(("wav", "pcm")),
        metadata={"help": "A WAV file, or the samples alone: 16 bits, little-endian, mono.", "choices": ("wav", "pcm")},
    )
    sample_rate: int = attrs.field(
        default=0,
        validator=[attrs.validators.ge(0), attrs.validators.le(192_000)],
        metadata={"help": "Samples a second; 0: those of the voice."},
    )


@attrs.frozen(kw_only=True)
class Output:
    """The sound, in base64."""

    audio: str
    form: str
    sample_rate: int
    seconds: float

    def __str__(self) -> str:
        return self.audio


class Speak:
    """Say a text aloud, with the speaker of the config; the model is not asked."""

    inputs = Inputs
    output = Output

    def __init__(self, options: Options, context: Context) -> None:
        self._most = options.max_characters
        self._speaker: Reached[Speaker] = Reached(context, "speaker")

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "text")
        if len(inputs.text) > self._most:
            raise RequestError(
                f"text has {len(inputs.text)} characters, and at most {self._most} are said at once; send it in parts.", "text"
            )
        if 0 < inputs.sample_rate < 1000:
            raise RequestError("sample_rate must be at least 1000, or 0 for that of the voice.", "sample_rate")
        speaker = self._speaker.get()
        rate = inputs.sample_rate or speaker.sample_rate
        sound = resampled(np.concatenate([np.zeros(0, np.float32), *speaker.speak(inputs.text)]), speaker.sample_rate, rate)
        data = write_wav(sound, rate) if inputs.form == "wav" else pcm_bytes(sound)
        return Output(audio=in_base64(data), form=inputs.form, sample_rate=rate, seconds=len(sound) / rate)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Say a text aloud.",
        options=Options,
        examples=('llmasos task speak --text "The otters sleep."', 'model.run("speak", text="The otters sleep.").audio'),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Speak(options, context)

"""Task ``describe``: an image in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from llmasos_app_text.images import given_images
from llmasos_app_text.sampling import SamplingInputs
from llmasos_hookspecs import Component, Context, ImageInput, NoOptions, Task, TaskModel, hookimpl
from llmasos_task_kit.prompting import Message, reply_room, shorten_last, turn_stops, user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Inputs(SamplingInputs):
    """An image, and what to look at."""

    image: ImageInput = attrs.field(metadata={"help": "The image: a PNG, JPEG, WebP or GIF file."})
    instruction: str = attrs.field(default="", metadata={"help": "What to describe, in a sentence; empty: all of it."})
    language: str = attrs.field(default="", metadata={"help": "Language of the description; empty: the model's own choice."})


@attrs.frozen(kw_only=True)
class Output:
    """The description."""

    text: str
    finish_reason: str

    def __str__(self) -> str:
        return self.text


class Describe:
    """Describe an image, whole or piece by piece."""

    inputs = Inputs
    output = Output
    metrics = ("text",)

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        messages, sampling = self._request(model, inputs)
        generation = model.generate(messages, **sampling)
        return Output(text=generation.text.strip(), finish_reason=generation.finish_reason)

    def stream(self, model: TaskModel, inputs: Inputs) -> Iterator[str]:
        messages, sampling = self._request(model, inputs)
        return model.stream(messages, **sampling)

    def _request(self, model: TaskModel, inputs: Inputs) -> tuple[list[Message], dict[str, Any]]:
        new = reply_room(model, inputs.max_new_tokens)
        asked = inputs.instruction.strip() or "Describe this image."
        if inputs.language.strip():
            asked = f"{asked} Answer in {inputs.language.strip()}."
        messages = user_prompt(without_control_tokens(asked, model.tokenizer), images=given_images([inputs.image]))
        messages, _ = shorten_last(model, messages, model.context_length - new)
        return messages, {**inputs.sampling(), "max_new_tokens": new, "stop": turn_stops(model)}


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Describe an image in words.",
        options=NoOptions,
        examples=(
            "llmasos task describe --image photo.jpg",
            'model.run("describe", image=Path("photo.jpg"), instruction="What does the sign say?")',
        ),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Describe()

"""Task ``extract``: facts of a text, or of images, as JSON that satisfies a JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import attrs

from llmasos_app_text.images import given_images
from llmasos_app_text.json_completion import compact, complete_json, parse_json
from llmasos_hookspecs import Component, Context, ImageInput, NoOptions, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import reply_room, shorten_last, user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Inputs:
    """A text, or images, and the form in which their facts are wanted."""

    text: str = attrs.field(default="", metadata={"help": "The text to read."})
    schema: dict[str, Any] = attrs.field(metadata={"help": "JSON Schema of the answer."})
    images: tuple[ImageInput, ...] = attrs.field(
        default=(), metadata={"help": "Images to read the facts from, with the text or without one; the model must read images."}
    )
    instruction: str = attrs.field(default="", metadata={"help": "What to look for, in a sentence."})
    max_new_tokens: int = attrs.field(default=512, metadata={"help": "Tokens of the answer at most."})


@attrs.frozen(kw_only=True)
class Output:
    """``data`` satisfies the schema. It is ``complete`` unless the token limit cut it: then it was closed with as little as the schema
    allows. ``cut_tokens`` in the middle of the text did not fit the context."""

    data: Any
    complete: bool
    cut_tokens: int = 0

    def __str__(self) -> str:
        return json.dumps(self.data, ensure_ascii=False, indent=2)


class Extract:
    """Read facts out of a text or of images, in the form of a JSON Schema, by constrained decoding."""

    inputs = Inputs
    output = Output
    metrics = ("text",)

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        images = given_images(inputs.images)
        if not images:
            refuse_empty(inputs, "text")
        new = reply_room(model, inputs.max_new_tokens)
        text = without_control_tokens(inputs.text, model.tokenizer)
        task = inputs.instruction.strip() or f"Extract the facts from the {'images' if images else 'text'}."
        frame = f"{task}\nReply in JSON with this schema:\n{json.dumps(inputs.schema, ensure_ascii=False)}"
        # Few templates of models that read images have a place for a system message beside one.
        frame = without_control_tokens(frame, model.tokenizer)
        if images:
            messages = user_prompt(f"{text}\n\n{frame}" if text.strip() else frame, images=images)
        else:
            messages = user_prompt(text, system=frame)
        messages, cut = shorten_last(model, messages, model.context_length - new)
        generation = model.generate(messages, max_new_tokens=new, schema=compact(inputs.schema), copying=True)
        complete = generation.finish_reason != "length"
        try:
            data = parse_json(generation.text)
        except ValueError as error:
            if complete:
                raise RequestError(f"The model's answer is no JSON ({error}): it does not honour the schema.") from error
            data = parse_json(complete_json(generation.text, inputs.schema))
        return Output(data=data, complete=complete, cut_tokens=cut)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Read facts out of a text or of images, in the form of a JSON Schema.",
        options=NoOptions,
        examples=(
            "llmasos task extract --text @mail.txt --schema @person.json",
            "llmasos task extract --images receipt.jpg --schema @receipt.json",
            'model.run("extract", text=mail, schema={"type": "array", "items": {"type": "string"}}, instruction="List the names.").data',
        ),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Extract()

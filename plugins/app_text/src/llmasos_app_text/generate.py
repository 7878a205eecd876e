"""Task ``generate``: continue a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from llmasos_app_text.sampling import SamplingInputs
from llmasos_hookspecs import Component, Context, ContextLengthExceeded, NoOptions, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import Message, reply_room, shorten_last, tail, turn_stops, user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Inputs(SamplingInputs):
    """A text to continue."""

    prompt: str = attrs.field(metadata={"help": "The text to continue."})
    system: str = attrs.field(default="", metadata={"help": "Instructions that precede the prompt; makes it a chat message."})
    chat: bool = attrs.field(default=False, metadata={"help": "Put the prompt into the model's chat template."})
    stop: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Strings that end the text; they are not part of it."})
    schema: dict[str, Any] | None = attrs.field(default=None, metadata={"help": "JSON Schema that the text must satisfy."})
    regex: str | None = attrs.field(default=None, metadata={"help": "Regular expression that the text must match."})
    choices: tuple[str, ...] = attrs.field(default=(), metadata={"help": "The texts allowed."})
    overflow: str = attrs.field(
        default="keep_end",
        validator=attrs.validators.in_(("keep_end", "refuse")),
        metadata={
            "help": "For a prompt longer than the context: keep its end (and say how much was dropped), or refuse it.",
            "choices": ("keep_end", "refuse"),
        },
    )


@attrs.frozen(kw_only=True)
class Output:
    """The continuation. ``dropped_tokens`` of the prompt did not fit the context."""

    text: str
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    dropped_tokens: int = 0

    def __str__(self) -> str:
        return self.text


class Generate:
    """Continue a text, freely or in a given form."""

    inputs = Inputs
    output = Output

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        prompt, sampling, dropped = self._request(model, inputs)
        generation = model.generate(prompt, **sampling)
        return Output(
            text=generation.text,
            finish_reason=generation.finish_reason,
            prompt_tokens=generation.prompt_tokens,
            new_tokens=len(generation.tokens),
            dropped_tokens=dropped,
        )

    def stream(self, model: TaskModel, inputs: Inputs) -> Iterator[str]:
        prompt, sampling, _ = self._request(model, inputs)
        return model.stream(prompt, **sampling)

    def _request(self, model: TaskModel, inputs: Inputs) -> tuple[str | list[Message], dict[str, Any], int]:
        refuse_empty(inputs, "prompt")
        chat = inputs.chat or bool(inputs.system)
        new = reply_room(model, inputs.max_new_tokens)
        sampling = {**inputs.sampling(), "max_new_tokens": new, "stop": (*inputs.stop, *(turn_stops(model) if chat else ()))}
        for form in ("schema", "regex", "choices"):
            if getattr(inputs, form):
                sampling[form] = getattr(inputs, form)
        room = model.context_length - new
        if chat:
            messages = user_prompt(without_control_tokens(inputs.prompt, model.tokenizer), system=inputs.system)
            self._refuse_overflow(model.count_tokens(messages), room, inputs)
            messages, dropped = shorten_last(model, messages, room)
            return messages, sampling, dropped
        prompt = inputs.prompt or _unconditional(model)
        count = model.count_tokens(prompt)
        self._refuse_overflow(count, room, inputs)
        kept = prompt if count <= room else tail(prompt, room - 1, model.tokenizer)
        return kept, sampling, count - model.count_tokens(kept) if kept is not prompt else 0

    def _refuse_overflow(self, count: int, room: int, inputs: Inputs) -> None:
        if count > room and inputs.overflow == "refuse":
            raise ContextLengthExceeded(
                f"The prompt takes {count} tokens, and the context has room for {room} beside the reply: "
                "shorten it, or set overflow to keep_end."
            )


def _unconditional(model: TaskModel) -> str:
    """What a text begins after: the model's first token, or a line break where it has none."""
    bos = model.tokenizer.bos_token_id
    return "\n" if bos is None else model.tokenizer.token_bytes(bos).decode("utf-8", "replace")


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Continue a text, freely or in a given form.",
        options=NoOptions,
        examples=('llmasos task generate --prompt "今天天气很好"', 'model.run("generate", prompt="Once upon a time", max_new_tokens=64)'),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Generate()

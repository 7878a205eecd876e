"""Task ``explain``: what code does, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from llmasos_app_code.fences import fenced
from llmasos_app_code.languages import canonical
from llmasos_hookspecs import Component, Context, NoOptions, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import Message, reply_room, shorten_last, turn_stops, user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Inputs:
    """Code, and what to explain of it."""

    code: str = attrs.field(metadata={"help": "The code."})
    language: str = attrs.field(default="", metadata={"help": "Its language; empty: the model sees for itself."})
    question: str = attrs.field(default="", metadata={"help": "What to explain; empty: what the code does."})
    max_new_tokens: int = attrs.field(default=256, metadata={"help": "Tokens of the explanation at most."})


@attrs.frozen(kw_only=True)
class Output:
    """The explanation. ``cut_tokens`` in the middle of the code did not fit the context."""

    text: str
    finish_reason: str
    cut_tokens: int = 0

    def __str__(self) -> str:
        return self.text


class Explain:
    """Say what code does."""

    inputs = Inputs
    output = Output

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        prompt, sampling, cut = self._request(model, inputs)
        generation = model.generate(prompt, **sampling)
        return Output(text=generation.text.strip(), finish_reason=generation.finish_reason, cut_tokens=cut)

    def stream(self, model: TaskModel, inputs: Inputs) -> Iterator[str]:
        prompt, sampling, _ = self._request(model, inputs)
        return model.stream(prompt, **sampling)

    def _request(self, model: TaskModel, inputs: Inputs) -> tuple[list[Message], dict[str, Any], int]:
        refuse_empty(inputs, "code")
        new = reply_room(model, inputs.max_new_tokens)
        language = canonical(inputs.language) if inputs.language.strip() else ""
        question = inputs.question.strip() or "Explain what this code does, step by step."
        words = without_control_tokens(f"{question}\n\n{fenced(inputs.code, language)}", model.tokenizer)
        prompt, cut = shorten_last(model, user_prompt(words), model.context_length - new)
        return prompt, {"max_new_tokens": new, "stop": turn_stops(model), "copying": True}, cut


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Say what code does.",
        options=NoOptions,
        examples=("llmasos task explain --code @sort.py", 'model.run("explain", code="x = x or 1", question="When is x 1?").text'),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Explain()

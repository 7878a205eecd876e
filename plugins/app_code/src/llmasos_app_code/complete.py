"""Task ``complete``: completes the code at the cursor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from llmasos_hookspecs import Component, Context, NoOptions, Task, TaskModel, Tokenizer, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import head, reply_room, tail, without_control_tokens

#: Control tokens before the prefix, the suffix and the middle (fill-in-the-middle, Bavarian et al., 2022), by family: StarCoder and related
#: models, Qwen-Coder, DeepSeek-Coder, CodeLlama.
FIM_TOKENS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)


@attrs.frozen(kw_only=True)
class Inputs:
    """The code before and behind the cursor."""

    prefix: str = attrs.field(metadata={"help": "The code before the cursor."})
    suffix: str = attrs.field(default="", metadata={"help": "The code behind the cursor."})
    stop: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Strings that end the completion; they are not part of it."})
    max_new_tokens: int = attrs.field(default=128, metadata={"help": "Tokens of the completion at most."})
    temperature: float = attrs.field(default=0.0, metadata={"help": "0 is greedy; higher is more varied."})
    seed: int | None = attrs.field(default=None, metadata={"help": "Makes a sampled completion reproducible."})


@attrs.frozen(kw_only=True)
class Output:
    """The completion, and the code with it in place. ``mode`` is ``fim`` where the model saw what is behind the cursor, else ``prefix``."""

    text: str
    code: str
    mode: str = attrs.field(metadata={"choices": ("fim", "prefix")})
    finish_reason: str

    def __str__(self) -> str:
        return self.text


class Complete:
    """Fill in the code at the cursor."""

    inputs = Inputs
    output = Output

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        prompt, sampling, mode = self._request(model, inputs)
        generation = model.generate(prompt, **sampling)
        text = generation.text
        return Output(text=text, code=f"{inputs.prefix}{text}{inputs.suffix}", mode=mode, finish_reason=generation.finish_reason)

    def stream(self, model: TaskModel, inputs: Inputs) -> Iterator[str]:
        prompt, sampling, _ = self._request(model, inputs)
        return model.stream(prompt, **sampling)

    def _request(self, model: TaskModel, inputs: Inputs) -> tuple[str, dict[str, Any], str]:
        refuse_empty(inputs, "prefix", "suffix")
        new = reply_room(model, inputs.max_new_tokens)
        # Room for the three control tokens, and for text that encodes differently at the boundaries.
        room = max(1, model.context_length - new - 8)
        tokens = fim_tokens(model.tokenizer)
        prefix = without_control_tokens(inputs.prefix, model.tokenizer)
        suffix = without_control_tokens(inputs.suffix, model.tokenizer)
        stop = inputs.stop
        if tokens is not None and suffix.strip():
            # The code after the cursor gets a quarter of the room, plus what the code before it does not use.
            behind = head(suffix, max(room // 4, room - len(model.tokenizer.encode(prefix, special=False))), model.tokenizer)
            before = tail(prefix, room - len(model.tokenizer.encode(behind, special=False)), model.tokenizer)
            prompt, mode = f"{tokens[0]}{before}{tokens[1]}{behind}{tokens[2]}", "fim"
        else:
            prompt, mode = tail(prefix, room, model.tokenizer) or "\n", "prefix"
            following = next((line for line in inputs.suffix.splitlines() if len(line.strip()) > 3), "")
            if following:
                stop = (*stop, following)  # what comes next is there already
        return prompt, {"max_new_tokens": new, "stop": stop, "temperature": inputs.temperature, "seed": inputs.seed}, mode


def fim_tokens(tokenizer: Tokenizer) -> tuple[str, str, str] | None:
    """The three tokens for filling in the middle, if the tokenizer has them as single tokens."""
    for spellings in FIM_TOKENS:
        if all(len(tokenizer.encode(spelling, special=False)) == 1 for spelling in spellings):
            return spellings
    return None


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Fill in the code at the cursor.",
        options=NoOptions,
        examples=(
            'llmasos task complete --prefix "def add(a, b):" --suffix "print(add(1, 2))"',
            'model.run("complete", prefix="for i in range(").text',
        ),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Complete()

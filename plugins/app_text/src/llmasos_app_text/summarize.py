"""Task ``summarize``: summarises a text of any length."""

from __future__ import annotations

import attrs

from llmasos_hookspecs import Component, Context, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import Message, head, reply_room, turn_stops, user_prompt, without_control_tokens
from llmasos_task_kit.sentences import chunks


@attrs.frozen(kw_only=True)
class Options:
    """How long texts are cut."""

    chunk_tokens: int = attrs.field(
        default=1024, metadata={"help": "A text longer than this many tokens, or than the context, is summarised in parts, and they again."}
    )


@attrs.frozen(kw_only=True)
class Inputs:
    """A text to summarise."""

    text: str = attrs.field(metadata={"help": "The text to summarise."})
    sentences: int = attrs.field(default=3, metadata={"help": "About how many sentences the summary should have."})
    focus: str = attrs.field(default="", metadata={"help": "What the summary should pay attention to."})
    max_new_tokens: int = attrs.field(default=200, metadata={"help": "Tokens of the summary at most."})


@attrs.frozen(kw_only=True)
class Output:
    """The summary; ``chunks`` parts were summarised in ``levels`` rounds."""

    text: str
    chunks: int
    levels: int
    finish_reason: str

    def __str__(self) -> str:
        return self.text


class Summarize:
    """Summarise a text; a text that is too long is summarised in parts, then the summaries are summarised."""

    inputs = Inputs
    output = Output

    def __init__(self, options: Options) -> None:
        if options.chunk_tokens < 64:
            raise RequestError(f"chunk_tokens is {options.chunk_tokens!r}, and it must be a whole number of at least 64.")
        self._chunk_tokens = options.chunk_tokens

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "text")
        if inputs.sentences < 1:
            raise RequestError(f"sentences is {inputs.sentences!r}, and it must be a whole number of at least 1.")
        new = reply_room(model, inputs.max_new_tokens)
        frame = model.count_tokens(_prompt("", inputs))
        size = min(self._chunk_tokens, model.context_length - frame - new - 8)
        if size < 16:
            raise RequestError(f"focus and max_new_tokens leave no room for a text in a context of {model.context_length} tokens.")
        text, levels, parts = without_control_tokens(inputs.text, model.tokenizer).strip(), 0, 0
        while text:
            pieces = chunks(text, size, model.tokenizer)
            levels += 1
            parts += len(pieces)
            if len(pieces) == 1:
                generation = model.generate(_prompt(text, inputs), max_new_tokens=new, stop=turn_stops(model), copying=True)
                return Output(text=generation.text.strip(), chunks=parts, levels=levels, finish_reason=generation.finish_reason)
            # A part's summary takes at most a quarter of it, so that every round leaves at most about a quarter of the text.
            limit = max(4, min(new, size // 4))
            prompts = [_prompt(piece.strip(), inputs) for piece in pieces]
            summaries = [g.text.strip() for g in model.batch(prompts, max_new_tokens=limit, stop=turn_stops(model), copying=True)]
            text = "\n".join(head(without_control_tokens(s, model.tokenizer), limit, model.tokenizer) for s in summaries if s)
        return Output(text="", chunks=parts, levels=levels, finish_reason="stop")


def _prompt(text: str, inputs: Inputs) -> list[Message]:
    focus = f" Pay attention to {inputs.focus.strip()}." if inputs.focus.strip() else ""
    count = "one sentence" if inputs.sentences == 1 else f"{inputs.sentences} sentences"
    return user_prompt(f"Summarize the following text in {count}.{focus}\n\n{text}")


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Summarise a text of any length.",
        options=Options,
        examples=("llmasos task summarize --text @report.txt --sentences 2", 'model.run("summarize", text=report, focus="costs").text'),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Summarize(options)

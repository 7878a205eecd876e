"""Task ``translate``: a text in another language."""

from __future__ import annotations

import attrs

from llmasos_app_text.sentences import chunks
from llmasos_hookspecs import Component, Context, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.prompting import Message, turn_stops, user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Options:
    """How long texts are cut."""

    chunk_tokens: int = attrs.field(
        default=256, metadata={"help": "Sentences are translated together up to this many tokens, never across paragraphs."}
    )


@attrs.frozen(kw_only=True)
class Inputs:
    """A text and the language it should be in."""

    text: str = attrs.field(metadata={"help": "The text to translate."})
    target: str = attrs.field(metadata={"help": "The language to translate into, by its English name: French."})
    source: str = attrs.field(default="", metadata={"help": "The language of the text; empty: the model sees for itself."})


@attrs.frozen(kw_only=True)
class Output:
    """The translation. Of its ``chunks``, ``cut_chunks`` reached the token limit before they ended."""

    text: str
    target: str
    chunks: int
    cut_chunks: int = 0

    def __str__(self) -> str:
        return self.text


class Translate:
    """Translate a text sentence group by sentence group, with its paragraphs and line ends kept."""

    inputs = Inputs
    output = Output
    metrics = ("translation",)

    def __init__(self, options: Options) -> None:
        if options.chunk_tokens < 16:
            raise RequestError(f"chunk_tokens is {options.chunk_tokens!r}, and it must be a whole number of at least 16.")
        self._chunk_tokens = options.chunk_tokens

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        target, source = inputs.target.strip(), inputs.source.strip()
        if not target:
            raise RequestError('target is empty; name the language to translate into, such as "French".')
        room = model.context_length - model.count_tokens(_prompt("", target, source)) - 8
        if room < 3:
            raise RequestError(f"The names of the languages leave no room for a text in a context of {model.context_length} tokens.")
        # A translation may take twice the tokens of its source: languages that the tokenizer knows less cost more.
        size = max(1, min(self._chunk_tokens, room // 3))
        text = without_control_tokens(inputs.text, model.tokenizer)
        pieces = chunks(text, size, model.tokenizer, across_paragraphs=False)
        bodies = [piece.strip() for piece in pieces]
        prompts = [_prompt(body, target, source) for body in bodies if body]
        generations = iter(model.batch(prompts, max_new_tokens=max(2 * size, 8), stop=turn_stops(model)) if prompts else [])
        translated: list[str] = []
        cut = 0
        for piece, body in zip(pieces, bodies, strict=True):
            if not body:
                translated.append(piece)
                continue
            generation = next(generations)
            cut += generation.finish_reason == "length"
            lead, trail = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :]
            translated.append(f"{lead}{_unquoted(generation.text.strip(), body)}{trail}")
        return Output(text=_joined(translated), target=target, chunks=len(prompts), cut_chunks=cut)


def _prompt(text: str, target: str, source: str) -> list[Message]:
    languages = f"from {source} to {target}" if source else f"to {target}"
    return user_prompt(f"Translate the following text {languages}. Reply with the translation only.\n\n{text}")


def _joined(pieces: list[str]) -> str:
    """The pieces, with a space where a Chinese text (which has none between sentences) became one that needs it."""
    text = ""
    for piece in pieces:
        if text and piece and not text[-1].isspace() and not piece[0].isspace() and text[-1] in ".!?" and piece[0].isalnum():
            text += " "
        text += piece
    return text


def _unquoted(translation: str, source: str) -> str:
    """The translation without the quotation marks that some models put around it."""
    for begin, end in (('"', '"'), ("“", "”"), ("「", "」"), ("«", "»")):
        if len(translation) > 2 and translation[0] == begin and translation[-1] == end and not source.startswith(begin):
            return translation[1:-1].strip()
    return translation


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Translate a text of any length into another language.",
        options=Options,
        examples=(
            'llmasos task translate --text "Good morning." --target French',
            'model.run("translate", text="早上好。", target="English").text',
        ),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Translate(options)

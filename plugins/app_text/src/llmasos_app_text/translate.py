"""Task ``translate``: a text in another language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from llmasos_app_text.languages import code_of, prefix_of
from llmasos_hookspecs import Component, Context, Prompt, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import Message, turn_stops, user_prompt, without_control_tokens
from llmasos_task_kit.sentences import chunks


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
        refuse_empty(inputs, "text")
        target, source = inputs.target.strip(), inputs.source.strip()
        if not target:
            raise RequestError('target is empty; name the language to translate into, such as "French".')
        way = _of_encoder_decoder(model, target, source) if getattr(model, "source_length", 0) else _of_chat(model, target, source)
        size = min(self._chunk_tokens, way.size)
        text = without_control_tokens(inputs.text, model.tokenizer)
        pieces = chunks(text, size, model.tokenizer, across_paragraphs=False)
        bodies = [piece.strip() for piece in pieces]
        prompts = [way.prompt(body) for body in bodies if body]
        # A translation may take twice the tokens of its source: languages that the tokenizer knows less cost more.
        length = min(max(2 * size, 8), way.longest)
        generations = iter(model.batch(prompts, max_new_tokens=length, **way.arguments) if prompts else [])
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


@attrs.frozen
class _Way:
    """How a model is asked for translations.

    Attributes:
        size: tokens of a text that it translates at once, at most.
        longest: tokens of a translation at most.
        prompt: the prompt for a text.
        arguments: of the generation.
    """

    size: int
    longest: int
    prompt: Callable[[str], Prompt]
    arguments: Mapping[str, Any]


def _of_chat(model: TaskModel, target: str, source: str) -> _Way:
    """By an instruction, for models that follow one."""
    room = model.context_length - model.count_tokens(_prompt("", target, source)) - 8
    if room < 3:
        raise RequestError(f"The names of the languages leave no room for a text in a context of {model.context_length} tokens.")
    return _Way(max(1, room // 3), room, lambda text: _prompt(text, target, source), {"stop": turn_stops(model)})


def _of_encoder_decoder(model: Any, target: str, source: str) -> _Way:
    """By the model's language codes, or by the prefix that it was trained with; one that has neither translates as it was trained to."""
    arguments: dict[str, str] = {}
    prefix = ""
    if model.languages:
        arguments["target_language"] = code_of(target, model.languages, "target")
        if source and model.has_source_languages:
            arguments["source_language"] = code_of(source, model.languages, "source")
    elif model.prefixes:
        prefix = prefix_of(target, source, model.prefixes)
    room = model.source_length - model.count_tokens(prefix or "a") - 8
    longest = model.context_length - model.source_length - 2
    if room < 1 or longest < 1:
        raise RequestError(f"The model reads {model.source_length} tokens at most, which leaves no room for a text; raise context_length.")
    return _Way(room, longest, lambda text: prefix + text, arguments)


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

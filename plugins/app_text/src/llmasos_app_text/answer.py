"""Task ``answer``: answers a question from given documents, and about given images."""

from __future__ import annotations

import attrs

from llmasos_app_text.images import given_images
from llmasos_hookspecs import Component, Context, ImageInput, RequestError, Task, TaskModel, hookimpl
from llmasos_image_input.parts import GivenImage
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.passages import Passage, best_passages, fused_passages, split_passages
from llmasos_task_kit.prompting import Message, reply_room, shorten_last, text_of, turn_stops, user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Options:
    """How documents are cut and searched."""

    passage_tokens: int = attrs.field(default=160, metadata={"help": "Documents are cut into passages of at most this many tokens."})
    embedding_model: str | None = attrs.field(
        default=None,
        metadata={"help": "A model of the config by name that embeds texts: passages are then found by their meaning, too."},
    )


@attrs.frozen(kw_only=True)
class Inputs:
    """A question and the documents that hold the answer."""

    question: str = attrs.field(metadata={"help": "The question."})
    documents: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "Texts to find the answer in; without any, the model answers by itself."}
    )
    images: tuple[ImageInput, ...] = attrs.field(
        default=(), metadata={"help": "Images that the question is about; the model must read images."}
    )
    passages: int = attrs.field(default=3, metadata={"help": "Passages to show the model at most."})
    max_new_tokens: int = attrs.field(default=128, metadata={"help": "Tokens of the answer at most."})


@attrs.frozen(kw_only=True)
class Output:
    """The answer, and the passages in the prompt, best first."""

    text: str
    passages: tuple[Passage, ...]
    finish_reason: str

    def __str__(self) -> str:
        sources = "".join(f"\n[{n}] document {p.document}, character {p.start}: {p.text}" for n, p in enumerate(self.passages, 1))
        return f"{self.text}\n{sources}" if sources else self.text


class Answer:
    """Answer a question from the best-matching passages of the documents: by the words that they share with it (BM25), and by their meaning
    too where config names an embedding model."""

    inputs = Inputs
    output = Output
    metrics = ("text",)

    def __init__(self, options: Options) -> None:
        if options.passage_tokens < 16:
            raise RequestError(f"passage_tokens is {options.passage_tokens!r}, and it must be a whole number of at least 16.")
        self._passage_tokens = options.passage_tokens
        self._embedding_model = options.embedding_model

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "question")
        if inputs.documents and not any(map(str.strip, inputs.documents)):
            raise RequestError("All the documents are empty, so they hold no answer; give their texts, or leave documents out.")
        if inputs.passages < 1:
            raise RequestError(f"passages is {inputs.passages!r}, and it must be a whole number of at least 1.")
        new = reply_room(model, inputs.max_new_tokens)
        room = model.context_length - new
        images = given_images(inputs.images)
        # At least half of the prompt's room stays for passages, however long the question is.
        question, _ = shorten_last(model, user_prompt(without_control_tokens(inputs.question, model.tokenizer)), max(1, room // 2))
        asked = text_of(question[-1])
        size = max(1, min(self._passage_tokens, room // 4))
        candidates = split_passages(inputs.documents, size, model.tokenizer)
        used: list[Passage] = []
        prompt = _prompt(asked, used, images, model)
        for passage in self._best(candidates, inputs, model) if candidates else []:
            longer = _prompt(asked, [*used, passage], images, model)
            if model.count_tokens(longer) > room:
                break
            used.append(passage)
            prompt = longer
        prompt, _ = shorten_last(model, prompt, room)
        generation = model.generate(prompt, max_new_tokens=new, stop=turn_stops(model), copying=True)
        return Output(text=generation.text.strip(), passages=tuple(used), finish_reason=generation.finish_reason)

    def _best(self, candidates: list[Passage], inputs: Inputs, model: TaskModel) -> list[Passage]:
        if self._embedding_model is None:
            return best_passages(candidates, inputs.question, inputs.passages)
        ranked = model.other(self._embedding_model).rank(inputs.question, [passage.text for passage in candidates], truncate=True)
        return fused_passages(candidates, inputs.question, [each.index for each in ranked], inputs.passages)


def _prompt(question: str, passages: list[Passage], images: list[GivenImage], model: TaskModel) -> list[Message]:
    if not passages:
        return user_prompt(question, images=images)
    shown = "\n\n".join(f"[{n}] {without_control_tokens(p.text, model.tokenizer)}" for n, p in enumerate(passages, 1))
    return user_prompt(
        "Answer the question from the passages, in one or two sentences. If they do not hold the answer, say that you do not know.\n\n"
        f"{shown}\n\nQuestion: {question}",
        images=images,
    )


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Answer a question from given documents, with the passages used, or about images.",
        options=Options,
        examples=(
            'llmasos task answer --question "When was it built?" --documents @history.txt',
            'llmasos task answer --question "What does the sign say?" --images street.jpg',
            'model.run("answer", question="Who wrote it?", documents=[text]).passages',
        ),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Answer(options)

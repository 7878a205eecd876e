"""Task ``classify``: which of some labels fits a text?"""

from __future__ import annotations

from functools import partial

import attrs

from llmasos_app_text.labels import LabelScorer
from llmasos_hookspecs import Component, Context, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty


def classify_prompt(text: str, labels: tuple[str, ...], instruction: str) -> str:
    """The prompt: the list of labels and the text, ending where the label follows."""
    task = " ".join(instruction.split()) or "Decide which label fits each text."
    return f"{task} Labels: {', '.join(label.strip() for label in labels)}.\n\nText: {' '.join(text.split())}\nLabel:"


@attrs.frozen(kw_only=True)
class Options:
    """How labels are scored."""

    calibrate: bool = attrs.field(default=True, metadata={"help": "Take out the model's bias for some of the labels."})
    chunk_tokens: int = attrs.field(default=512, metadata={"help": "A longer text is scored in parts of this many tokens."})


@attrs.frozen(kw_only=True)
class Inputs:
    """A text and the labels to choose from."""

    text: str = attrs.field(metadata={"help": "The text to classify."})
    labels: tuple[str, ...] = attrs.field(metadata={"help": "The labels to choose from, at least two."})
    instruction: str = attrs.field(default="", metadata={"help": "What the labels mean, in a sentence."})


@attrs.frozen(kw_only=True)
class Output:
    """The likeliest label, its probability, and the probability of each, in the order of the labels."""

    label: str
    score: float
    probabilities: dict[str, float]

    def __str__(self) -> str:
        return f"{self.label} ({self.score:.3f})"


class Classify:
    """Choose the label that fits a text best, by the likelihood of each."""

    inputs = Inputs
    output = Output
    metrics = ("classification",)

    def __init__(self, options: Options) -> None:
        self._scorer = LabelScorer(calibrate=options.calibrate, chunk_tokens=options.chunk_tokens)

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "text")
        prompt = partial(classify_prompt, labels=inputs.labels, instruction=inputs.instruction)
        found = self._scorer.score(model, prompt, inputs.text, inputs.labels)
        return Output(label=found.label, score=found.probabilities[found.label], probabilities=found.probabilities)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Choose the label that fits a text best.",
        options=Options,
        examples=(
            'llmasos task classify --text "The match ended two to one." --labels sports --labels cooking',
            'model.run("classify", text="Stir the soup.", labels=["sports", "cooking"]).label',
        ),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Classify(options)

"""Task ``sentiment``: is a text positive or negative?"""

from __future__ import annotations

import attrs

from llmasos_app_text.labels import LabelScorer
from llmasos_hookspecs import Component, Context, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty

LABELS = ("positive", "negative")


def sentiment_prompt(text: str) -> str:
    """The wording, chosen among nine on half of the sentences in ``tests/data/sentiment.jsonl``; chat wordings did worse."""
    return (
        "Review: I loved it.\nSentiment: positive\n\n"
        "Review: I hated it.\nSentiment: negative\n\n"
        f"Review: {' '.join(text.split())}\nSentiment:"
    )


@attrs.frozen(kw_only=True)
class Options:
    """How labels are scored."""

    calibrate: bool = attrs.field(default=True, metadata={"help": "Take out the model's bias for one of the labels."})
    chunk_tokens: int = attrs.field(default=512, metadata={"help": "A longer text is scored in parts of this many tokens."})


@attrs.frozen(kw_only=True)
class Inputs:
    """A text to judge."""

    text: str = attrs.field(metadata={"help": "The text to judge."})


@attrs.frozen(kw_only=True)
class Output:
    """The likelier label, its probability, and the probability of each."""

    label: str = attrs.field(metadata={"choices": LABELS})
    score: float
    probabilities: dict[str, float]

    def __str__(self) -> str:
        return f"{self.label} ({self.score:.3f})"


class Sentiment:
    """Judge whether a text is positive or negative, by the likelihood of the two words."""

    inputs = Inputs
    output = Output
    metrics = ("classification",)

    def __init__(self, options: Options) -> None:
        self._scorer = LabelScorer(calibrate=options.calibrate, chunk_tokens=options.chunk_tokens)

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "text")
        found = self._scorer.score(model, sentiment_prompt, inputs.text, LABELS)
        return Output(label=found.label, score=found.probabilities[found.label], probabilities=found.probabilities)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Judge whether a text is positive or negative.",
        options=Options,
        examples=('llmasos task sentiment --text "What a lovely evening."', 'model.run("sentiment", text="It broke after a day.").label'),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Sentiment(options)

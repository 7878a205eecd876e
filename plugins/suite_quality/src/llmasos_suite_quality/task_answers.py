"""The answers of a task measured against those that the user expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from llmasos_hookspecs import METRICS, PluginError, RequestError, Task, TaskRow, TaskRun
from llmasos_suite_quality.metrics import (
    ClassificationMetrics,
    area_under_curve,
    classification_metrics,
    text_metrics,
    translation_metrics,
)

#: Keys of a row that hold what the answer should be, the first of them that is no input of the task.
EXPECTED_KEYS = ("label", "expected", "reference", "answer", "target", "score")

#: Fields of an output that hold the answer, the first of them that it has.
ANSWER_FIELDS = ("label", "text", "code", "score", "data")


@attrs.frozen(kw_only=True)
class EvaluationRow:
    """One model on the task.

    Attributes:
        model: what the user calls it.
        metrics: name -> value: ``accuracy``, ``macro_f1``, ``auc``; ``bleu``, ``chrf``; or ``exact``, ``f1``.
        classification: the whole table, where the answers are labels.
        examples, errors: how many were asked, and how many of them the task refused; those count as wrong.
        seconds: for all examples.
    """

    model: str
    metrics: dict[str, float]
    classification: ClassificationMetrics | None = None
    examples: int
    errors: int
    seconds: float

    @property
    def examples_per_second(self) -> float:
        """Throughput."""
        return self.examples / self.seconds if self.seconds > 0 else 0.0


@attrs.frozen(kw_only=True)
class TaskEvaluation:
    """Models side by side on one task."""

    task: str
    rows: tuple[EvaluationRow, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column names, and a line of texts for each model."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        lines = [
            [
                row.model,
                *(f"{row.metrics[name]:.3f}" if name in row.metrics else "" for name in names),
                str(row.examples),
                str(row.errors),
                f"{row.examples_per_second:.1f}",
            ]
            for row in self.rows
        ]
        return ["model", *names, "examples", "errors", "examples/s"], lines


class ExpectedAnswers:
    """What the rows of a file say that the answers should be; a row's other keys are inputs, or are ignored.

    Attributes:
        answers: the answer that each row expects, by where the row stands.
    """

    def __init__(self, task: str) -> None:
        self.answers: dict[str, str] = {}
        self._task = task

    def choose(self, task: Task, row: TaskRow) -> Collection[str]:
        """The keys of a row that are inputs of the task; for ``CommandContext.run_task``.

        Raises:
            PluginError: the task names a metric that the contract does not know.
            RequestError: the row lacks what is expected.
        """
        metrics_of(task, self._task)
        inputs = {field.alias for field in attrs.fields(task.inputs) if field.init}
        key = next((key for key in EXPECTED_KEYS if key in row.values and key not in inputs), None)
        if key is None:
            raise RequestError(
                f"{row.location} has none of {', '.join(EXPECTED_KEYS)}, which should hold the answer expected; name its key so."
            )
        self.answers[row.location] = str(row.values[key])
        return inputs

    def evaluate(self, run: TaskRun) -> EvaluationRow:
        """How the answers of a run, of all rows, compare with what is expected."""
        chosen = metrics_of(run.task, self._task)
        metrics, classification = _measure(chosen, list(self.answers.values()), run.outputs, run.inputs)
        return EvaluationRow(
            model=run.model,
            metrics=metrics,
            classification=classification,
            examples=len(run.outputs),
            errors=sum(output is None for output in run.outputs),
            seconds=run.seconds,
        )


def metrics_of(task: Task, name: str) -> tuple[str, ...]:
    """What the task says, or the contract's default. Raises ``PluginError`` for a metric that the contract does not know."""
    said = tuple(getattr(task, "metrics", ()))
    unknown = [metric for metric in said if metric not in METRICS]
    if unknown:
        raise PluginError(f"The task {name} asks for the metric {unknown[0]!r}; the metrics are {', '.join(METRICS)}.")
    labelled = any(field.name == "label" for field in attrs.fields(task.output))
    return said or (("classification",) if labelled else ("text",))


def _measure(
    chosen: Sequence[str], wanted: Sequence[str], outputs: Sequence[Any], inputs: Sequence[Any]
) -> tuple[dict[str, float], ClassificationMetrics | None]:
    given = [_answer(output) for output in outputs]
    metrics: dict[str, float] = {}
    classification = None
    if "classification" in chosen:
        classification = attrs.evolve(classification_metrics(wanted, given), auc=_binary_auc(wanted, outputs))
        metrics |= {"accuracy": classification.accuracy, "macro_f1": classification.macro_f1}
        if classification.auc is not None:
            metrics["auc"] = classification.auc
    if "translation" in chosen:
        metrics |= translation_metrics(wanted, given, target=getattr(inputs[0], "target", ""))
    if "text" in chosen:
        metrics |= text_metrics(wanted, given)
    return metrics, classification


def _answer(output: Any) -> str:
    return next((str(getattr(output, field)) for field in ANSWER_FIELDS if hasattr(output, field)), "")


def _binary_auc(wanted: Sequence[str], outputs: Sequence[Any]) -> float | None:
    labels = list(dict.fromkeys(wanted))
    tables = [getattr(output, "probabilities", None) for output in outputs]
    if len(labels) != 2 or not all(isinstance(table, Mapping) and labels[0] in table for table in tables):
        return None
    return area_under_curve([table[labels[0]] for table in tables], [label == labels[0] for label in wanted])  # type: ignore[index]

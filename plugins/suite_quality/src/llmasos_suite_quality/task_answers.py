"""Models compared on a task with examples of the user's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs import METRICS, CommandTask, PluginError, RequestError, TaskModel
from llmasos_suite_quality.metrics import (
    ClassificationMetrics,
    area_under_curve,
    classification_metrics,
    text_metrics,
    translation_metrics,
)
from llmasos_task_kit.concurrency import DEFAULT_WORKERS, BatchProgress, Finished, finished_in_turn
from llmasos_task_kit.rows import InputRow, read_inputs, read_rows, run_task

#: Keys of a row that hold what the answer should be, the first of them that is no input of the task.
EXPECTED_KEYS = ("label", "expected", "reference", "answer", "target", "score")

#: Fields of an output that hold the answer, the first of them that it has.
ANSWER_FIELDS = ("label", "text", "code", "score", "data")


@attrs.frozen(kw_only=True)
class EvaluationRow:
    """One model on the task.

    Attributes:
        model: what the caller calls it.
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


def evaluate_task(
    task: CommandTask,
    models: Mapping[str, TaskModel],
    examples: Path | str | Iterable[Mapping[str, Any]],
    *,
    expected: str = "",
    common: Mapping[str, Any] | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Callable[[str, BatchProgress], None] | None = None,
) -> TaskEvaluation:
    """Run a task with each model on the same examples and measure the answers.

    Args:
        task: its ``metrics`` say how its answers are measured.
        models: what to call each -> the model.
        examples: a ``.jsonl`` or ``.csv`` file, or mappings: the task's inputs, and what the answer should be. Other keys are ignored.
        expected: the key that holds it; empty: the first of ``EXPECTED_KEYS`` that is there and is no input.
        common: inputs that are the same for all examples.

    Raises:
        PluginError: the task names a metric that the contract does not know.
        RequestError: there are no examples, or one does not fit the task's inputs or lacks what is expected.
    """
    chosen = _metrics_of(task)
    prepared = [_prepare(task, row, expected, common or {}) for row in read_rows(examples)]
    if not prepared:
        raise RequestError(f"There are no examples to evaluate {task.name} on.")
    rows = tuple(_evaluate(chosen, task, label, model, prepared, workers, progress) for label, model in models.items())
    return TaskEvaluation(task=task.name, rows=rows)


@attrs.frozen
class _Example:
    index: int
    location: str
    inputs: Any
    expected: str


def _prepare(task: CommandTask, row: InputRow, expected: str, common: Mapping[str, Any]) -> _Example:
    inputs = {field.alias for field in attrs.fields(task.task.inputs) if field.init}
    key = expected or next((key for key in EXPECTED_KEYS if key in row.values and key not in inputs), "")
    if key not in row.values:
        hint = f"has no {key!r}" if key else f"has none of {', '.join(EXPECTED_KEYS)}"
        raise RequestError(f"{row.location} {hint}, which should hold the answer expected; name its key.")
    ignore = {other for other in row.values if other not in inputs or other == key}
    return _Example(row.index, row.location, read_inputs(task, row, common=common, ignore=ignore), str(row.values[key]))


def _metrics_of(task: CommandTask) -> tuple[str, ...]:
    """What the task says, or the contract's default."""
    said = tuple(getattr(task.task, "metrics", ()))
    unknown = [metric for metric in said if metric not in METRICS]
    if unknown:
        raise PluginError(f"The task {task.name} asks for the metric {unknown[0]!r}; the metrics are {', '.join(METRICS)}.")
    labelled = any(field.name == "label" for field in attrs.fields(task.task.output))
    return said or (("classification",) if labelled else ("text",))


def _evaluate(
    chosen: Sequence[str],
    task: CommandTask,
    label: str,
    model: TaskModel,
    examples: Sequence[_Example],
    workers: int,
    progress: Callable[[str, BatchProgress], None] | None,
) -> EvaluationRow:
    began = time.monotonic()
    answers: dict[int, Finished[_Example, Any]] = {}

    def answer(example: _Example) -> Any:
        return run_task(task, model, example.inputs, example.location)

    for batch in finished_in_turn(answer, examples, workers):
        answers.update({finished.item.index: finished for finished in batch})
        if progress is not None:
            errors = sum(finished.error is not None for finished in answers.values())
            progress(label, BatchProgress(done=len(answers), errors=errors, total=len(examples), seconds=time.monotonic() - began))
    seconds = time.monotonic() - began
    outputs = [answers[example.index].result for example in examples]
    wanted = [example.expected for example in examples]
    metrics, classification = _measure(chosen, wanted, outputs, examples)
    return EvaluationRow(
        model=label,
        metrics=metrics,
        classification=classification,
        examples=len(examples),
        errors=sum(output is None for output in outputs),
        seconds=seconds,
    )


def _measure(
    chosen: Sequence[str], wanted: Sequence[str], outputs: Sequence[Any], examples: Sequence[_Example]
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
        metrics |= translation_metrics(wanted, given, target=getattr(examples[0].inputs, "target", ""))
    if "text" in chosen:
        metrics |= text_metrics(wanted, given)
    return metrics, classification


def _answer(output: Any) -> str:
    return next((str(getattr(output, field)) for field in ANSWER_FIELDS if hasattr(output, field)), "")


def _binary_auc(wanted: Sequence[str], outputs: Sequence[Any]) -> float | None:
    labels = list(dict.fromkeys(wanted))
    tables: list[Any] = [getattr(output, "probabilities", None) for output in outputs]
    if len(labels) != 2 or not all(isinstance(table, Mapping) and labels[0] in table for table in tables):
        return None
    return area_under_curve([table[labels[0]] for table in tables], [label == labels[0] for label in wanted])

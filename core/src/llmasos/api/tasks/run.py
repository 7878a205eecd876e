"""A task on rows that are all in memory, many at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs

from llmasos.api.tasks.batch import DEFAULT_WORKERS, run_task
from llmasos.api.tasks.concurrency import finished_in_turn
from llmasos.api.tasks.inputs import make_inputs
from llmasos.api.tasks.rows import InputRow
from llmasos_hookspecs import Progress, Task, TaskModel, TaskRow, TaskRun


@attrs.frozen
class _Prepared:
    index: int
    location: str
    inputs: Any


def run_rows(
    task: Task,
    model: TaskModel,
    rows: Sequence[InputRow],
    choose: Callable[[Task, TaskRow], Collection[str]],
    *,
    label: str,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> TaskRun:
    """Run a task on every row; ``choose`` gives the keys of a row that are inputs. Nothing is run before every row has been prepared.

    Raises:
        RequestError: a row does not fit the task's inputs.
        LLMasOSError: the model or the task failed.
    """
    prepared = [_prepare(task, row, choose) for row in rows]
    outputs: list[Any] = [None] * len(prepared)
    began = time.monotonic()
    for batch in finished_in_turn(lambda row: run_task(task, model, row.inputs, row.location), prepared, workers):
        for finished in batch:
            outputs[finished.item.index] = finished.result
        if progress is not None:
            progress.advance(len(batch))
    seconds = time.monotonic() - began
    return TaskRun(model=label, task=task, inputs=tuple(row.inputs for row in prepared), outputs=tuple(outputs), seconds=seconds)


def _prepare(task: Task, row: InputRow, choose: Callable[[Task, TaskRow], Collection[str]]) -> _Prepared:
    ignore = set(row.values) - set(choose(task, TaskRow(location=row.location, values=row.values)))
    return _Prepared(row.index, row.location, make_inputs(task.inputs, row, ignore=ignore))

"""A task over many rows, through continuous batching, with results on disk as they come."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_hookspecs import CommandTask, RequestError, TaskModel
from llmasos_hookspecs.nesting import levels
from llmasos_task_kit.concurrency import DEFAULT_WORKERS, BatchProgress, Finished, finished_in_turn
from llmasos_task_kit.results import ResultFile
from llmasos_task_kit.rows import InputRow, other_columns, read_inputs, read_rows, run_task

#: Levels of lists and mappings that a row may have.
_DEEPEST: Final = 64


@attrs.frozen(kw_only=True)
class BatchReport:
    """The result of a batch. ``progress`` counts this run; ``path`` holds the results of all runs, ``errors`` of them refused rows."""

    path: Path
    progress: BatchProgress
    rows: int
    errors: int


def run_batch(
    task: CommandTask,
    model: TaskModel,
    rows: Path | str | Iterable[Mapping[str, Any]],
    output: Path | str,
    *,
    common: Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
    workers: int = DEFAULT_WORKERS,
    total: int | None = None,
    progress: Callable[[BatchProgress], None] | None = None,
) -> BatchReport:
    """Run a task on every row and write the answers to a ``.jsonl`` file.

    Each line has ``index`` (the row's number from 0), ``key`` (a digest of its inputs) and ``output``, or ``error`` with a sentence where
    the row was refused; of a CSV file also ``row``, the columns that are no inputs of the task, such as an id. Lines are synced to disk
    before further lines are written; a run that was killed resumes where it stopped, and repeats no row that has a line. At the end the
    lines are in the order of the rows.

    Args:
        rows: a ``.jsonl`` or ``.csv`` file, or mappings; keys are the task's inputs.
        common: inputs that are the same for all rows; a row's own value wins.
        ignore: keys of the rows that are not inputs of the task.
        workers: rows in progress at once.
        total: how many rows there are, if known, for ``progress``, which is called after every write.

    Raises:
        RequestError: the first row does not fit the task's inputs; the file was made from other rows, or is in use.
        LLMasOSError: the model failed; finished rows are kept.
    """
    output = Path(output)
    began = time.monotonic()
    now = BatchProgress(total=total)
    seen = 0

    def prepared(results: ResultFile) -> Iterator[_Prepared]:
        nonlocal seen, now
        for row in read_rows(rows):
            item = _prepare(task, row, common or {}, ignore)
            if item.error is not None and row.index == 0 and item.misfit:
                raise item.error  # most likely all rows are like it
            seen += 1
            known = results.keys.get(row.index)
            if known is None:
                yield item
            elif known == item.key:
                now = attrs.evolve(now, skipped=now.skipped + 1)
            else:
                raise RequestError(f"{output} holds an answer for another row {row.index}; choose another output file for these rows.")

    def answer(item: _Prepared) -> Any:
        if item.error is not None:
            raise item.error
        return run_task(task, model, item.inputs, item.location)

    with ResultFile(output) as results:
        for batch in finished_in_turn(answer, prepared(results), workers):
            results.append(_line(task, finished) for finished in batch)
            refused = sum(finished.error is not None for finished in batch)
            now = attrs.evolve(now, done=now.done + len(batch), errors=now.errors + refused, seconds=time.monotonic() - began)
            if progress is not None:
                progress(now)
        results.sort()
        return BatchReport(path=output, progress=attrs.evolve(now, seconds=time.monotonic() - began), rows=seen, errors=results.errors)


@attrs.frozen
class _Prepared:
    index: int
    location: str
    key: str
    inputs: Any = None
    error: RequestError | None = None
    misfit: bool = True
    others: Mapping[str, Any] = attrs.field(factory=dict)


def _prepare(task: CommandTask, row: InputRow, common: Mapping[str, Any], ignore: Collection[str]) -> _Prepared:
    if fault := _fault(row.values):
        # Values that no task can read are an error of this row; the next rows may be valid.
        return _Prepared(
            row.index, row.location, _digest(repr(row.values)[:10_000]), error=RequestError(f"{row.location} {fault}."), misfit=False
        )
    others = other_columns(task, row)
    try:
        inputs = read_inputs(task, row, common=common, ignore={*ignore, *others})
    except RequestError as error:
        return _Prepared(row.index, row.location, _digest(dict(row.values)), error=error, others=others)
    return _Prepared(row.index, row.location, _digest(task.plain(inputs)), inputs, others=others)


def _fault(values: Any) -> str:
    """Why no task can read the value; empty where it can be read."""
    for depth, level in enumerate(levels(values)):
        if depth >= _DEEPEST:
            return f"is nested deeper than {_DEEPEST} levels; make it flatter"
        for each in level:
            if isinstance(each, str) and not each.isascii() and any("\ud800" <= character <= "\udfff" for character in each):
                return "holds half a surrogate pair, which is no Unicode text; write it as UTF-8"
    return ""


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def _line(task: CommandTask, finished: Finished[_Prepared, Any]) -> dict[str, Any]:
    head: dict[str, Any] = {"index": finished.item.index, "key": finished.item.key}
    if finished.item.others:
        head["row"] = dict(finished.item.others)
    if finished.error is not None:
        return {**head, "error": str(finished.error)}
    return {**head, "output": task.plain(finished.result)}

"""Rows of JSONL and CSV files, and a task on one of them."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs import CommandTask, LLMasOSError, PluginError, RequestError, TaskModel
from llmasos_hookspecs.json_object import read_object

#: Longest field of a CSV file, in characters; the csv module's own bound is 128 KiB, less than an essay with its sources.
_FIELD_LIMIT = 64 * 2**20


@attrs.frozen
class InputRow:
    """One row: its number from 0, what it holds, and where it stands, for messages. ``text`` marks values that are all text (CSV)."""

    index: int
    values: Mapping[str, Any]
    location: str
    text: bool = False


def read_rows(source: Path | str | Iterable[Mapping[str, Any]]) -> Iterator[InputRow]:
    """Rows of a ``.jsonl`` or ``.csv`` file (UTF-8; CSV with a header line), or of mappings; read as they are asked for.

    Raises ``RequestError`` where the file cannot be read, or for the row that is no object, with its line.
    """
    if not isinstance(source, Path | str):
        return (InputRow(index, values, f"row {index}") for index, values in enumerate(source))
    path = Path(source)
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _read_jsonl(path)
    raise RequestError(f"{path} is neither .jsonl nor .csv, the kinds of file that a batch can be read from.")


def count_rows(path: Path) -> int:
    """How many rows a file holds; each is read. Raises ``RequestError`` as ``read_rows`` does."""
    return sum(1 for _ in read_rows(path))


def read_inputs(task: CommandTask, row: InputRow, *, common: Mapping[str, Any] | None = None, ignore: Collection[str] = ()) -> Any:
    """The task's inputs that a row and the values ``common`` to all rows describe; the row's own win. Keys in ``ignore`` are left out.

    Raises ``RequestError`` with the row's location and one sentence for each problem.
    """
    own = {key: value for key, value in row.values.items() if key not in ignore}
    try:
        return task.read({**(common or {}), **(task.read_texts(own) if row.text else own)})
    except RequestError as error:
        raise RequestError(f"{row.location}: {error}") from error


def other_columns(task: CommandTask, row: InputRow) -> dict[str, Any]:
    """What a row of a CSV file holds beside the task's inputs, such as an id: a table is seldom made for one task. Other files are."""
    names = {field.alias or field.name for field in attrs.fields(task.task.inputs)}
    return {key: value for key, value in row.values.items() if key not in names} if row.text else {}


def run_task(task: CommandTask, model: TaskModel, inputs: Any, location: str) -> Any:
    """The task's answer. Raises ``PluginError`` that names the row for an error that the task did not mean to raise."""
    try:
        return task.task.run(model, inputs)
    except PluginError as error:
        raise PluginError(f"{location}: {error}") from error
    except LLMasOSError:
        raise
    except Exception as error:
        raise PluginError(f"The task {task.name} failed at {location}: {type(error).__name__}: {error}") from error


def _read_jsonl(path: Path) -> Iterator[InputRow]:
    index = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        location = f"{path}, line {number}"
        yield InputRow(index, read_object(line, location), location)
        index += 1


def _read_csv(path: Path) -> Iterator[InputRow]:
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, _FIELD_LIMIT))
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for index, values in enumerate(reader):
            location = f"{path}, line {reader.line_num}"
            if None in values or None in values.values():
                raise RequestError(f"{location} has {'more' if None in values else 'fewer'} fields than the header line.")
            yield InputRow(index, values, location, text=True)
    except csv.Error as error:
        raise RequestError(f"{path}, line {reader.line_num} is no CSV: {error}.") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        # newline="" leaves line ends within quoted CSV fields as they are; utf-8-sig drops the mark that spreadsheets write.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); convert it first.") from error

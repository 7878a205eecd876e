"""A task on rows that are all in memory: all are prepared before one is run, and each has its answer or was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from llmasos.api.tasks import read_rows, run_rows
from llmasos.compose.guarded_task import guarded
from llmasos_hookspecs import PluginError, RequestError, Task, TaskRow
from llmasos_hookspecs.testing import ScriptedTaskModel


@attrs.frozen(kw_only=True)
class Inputs:
    number: int
    unit: str = "m"


@attrs.frozen(kw_only=True)
class Output:
    text: str


class Double:
    """Doubles numbers; refuses 13, and fails at 0."""

    inputs = Inputs
    output = Output
    metrics = ("text",)

    def __init__(self) -> None:
        self.asked: list[int] = []

    def run(self, model: Any, inputs: Inputs) -> Output:
        self.asked.append(inputs.number)
        if inputs.number == 13:
            raise RequestError("Not 13.")
        return Output(text=f"{2 // inputs.number * inputs.number**2} {inputs.unit}")


def every_input(task: Task, row: TaskRow) -> list[str]:
    return [key for key in row.values if key != "expected"]


class Counter:
    """Counts the rows that are done."""

    done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount


def run(rows: Any, task: Any = None, choose: Any = every_input, progress: Any = None) -> Any:
    return run_rows(task or Double(), ScriptedTaskModel(), list(read_rows(rows)), choose, label="m", workers=3, progress=progress)


def test_answers_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """From a file as from mappings; texts of CSV become what the task's inputs are; a refused row has none; the guard changes nothing."""
    (tmp_path / "rows.csv").write_text("number,unit,expected\n1,km,2 km\n13,,no\n2,,4 m\n")
    for task in (Double(), guarded(Double(), "task")):
        counter = Counter()
        found = run(tmp_path / "rows.csv", task, progress=counter)
        assert (found.model, found.task, counter.done) == ("m", task, 3)
        assert found.task.metrics == ("text",)
        assert found.inputs == (Inputs(number=1, unit="km"), Inputs(number=13), Inputs(number=2))
        assert found.outputs == (Output(text="2 km"), None, Output(text="4 m"))
        assert found.seconds >= 0


def test_a_row_that_does_not_fit_is_told_before_any_is_run() -> None:
    """By what the inputs are, or by what chooses them."""
    task = Double()
    with pytest.raises(RequestError, match=r'row 1: .*"many".*whole number'):
        run([{"number": 1}, {"number": "many"}], task)

    def refuse(task: Task, row: TaskRow) -> list[str]:
        if "expected" not in row.values:
            raise RequestError(f"{row.location} expects nothing.")
        return every_input(task, row)

    with pytest.raises(RequestError, match=r"row 1 expects nothing\."):
        run([{"number": 1, "expected": "2"}, {"number": 1}], task, refuse)
    assert task.asked == []


def test_a_failure_names_the_row() -> None:
    """It ends the run."""
    with pytest.raises(PluginError, match="Double failed at row 0: ZeroDivisionError"):
        run([{"number": 0}])

"""Tasks in a browser: a form for each, and a table of many inputs."""

from __future__ import annotations

import asyncio
import csv
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs import Principal, RequestError, TaskFacts
from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

INPUTS = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "What to look at."},
        "labels": {"type": "array", "items": {"type": "string"}},
        "mode": {"enum": ["fast", "good"]},
        "count": {"type": "integer", "default": 3},
        "exact": {"type": "boolean", "default": False},
        "schema": {"type": "object"},
    },
    "required": ["text"],
}


class Sorting(ScriptedRuntime):
    """A runtime with one task, ``sort``, that tells what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.permissions = {"use"}
        self.inputs: list[Mapping[str, Any]] = []
        self.pause: threading.Event | None = None

    def tasks(self, principal: Principal) -> list[TaskFacts]:
        return [TaskFacts(name="sort", summary="Sort a text.", inputs=INPUTS, output={"type": "object"}, streams=False)]

    async def arun(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        return await asyncio.to_thread(self.run, principal, task, inputs, model=model)

    def run(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        self.inputs.append(inputs)
        if self.pause is not None:
            self.pause.wait()
        if inputs["text"] == "bad":
            raise RequestError("It cannot be sorted.")
        return {"label": f"<i>{inputs['text']}</i>", "scores": [1, 2]}


@pytest.fixture
def runtime() -> Sorting:
    return Sorting()


def test_a_form_gives_a_task_what_its_schema_asks_for(runtime: Sorting, page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("tasks")
    shown.type("form.card > div > .field textarea", "otters")
    shown.click("form.card summary")
    labels, mode, count, exact, schema = shown.all("form.card details textarea, form.card details select, form.card details input")
    labels.send_keys("a\nb\n")
    mode.send_keys("good")
    count.send_keys("5")
    exact.click()
    schema.send_keys('{"type": "string"}')
    shown.press("Run")
    shown.wait(lambda: shown.all(".result dd"))
    wanted = {"text": "otters", "labels": ["a", "b"], "mode": "good", "count": 5, "exact": True, "schema": {"type": "string"}}
    assert runtime.inputs == [wanted]
    assert shown.texts(".result > dl > dd")[0] == "<i>otters</i>"
    assert shown.texts(".result li") == ["1", "2"]


def test_what_was_not_typed_in_is_left_to_the_task_and_refusals_are_told(runtime: Sorting, page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("tasks")
    text = shown.one("form.card > div > .field textarea")
    text.send_keys("bad")
    shown.press("Run")
    shown.wait(lambda: shown.texts(".result .trouble") == ["It cannot be sorted."])
    assert runtime.inputs == [{"text": "bad"}]
    shown.click("form.card summary")
    shown.all("form.card details textarea")[-1].send_keys("{no")
    shown.press("Run")
    shown.wait(lambda: shown.texts(".result .trouble")[0].startswith("schema is no JSON: "))
    assert len(runtime.inputs) == 1


def test_a_table_is_answered_row_by_row_and_keeps_its_other_columns(runtime: Sorting, page: Callable[..., Page], tmp_path: Path) -> None:
    """And one without what the task needs is refused."""
    table = tmp_path / "otters.csv"
    table.write_text('id,text,label\n1,"a, b",mine\n2,bad,\n3,c,\n', encoding="utf-8")
    shown = page()
    shown.js("URL.createObjectURL = (blob) => ((window.saved = blob), 'blob:none')")
    shown.view("tasks")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,txt\n1,a\n", encoding="utf-8")
    shown.type(".drop input", str(wrong))
    shown.wait(lambda: shown.texts(".drop .trouble") == ["The file has no column text, which the task needs."])
    assert runtime.inputs == []
    shown.type(".drop input", str(table))
    shown.press("Download")
    assert shown.texts(".drop p")[-1] == "3 of 3 rows, 1 failed"
    rows = list(csv.DictReader(shown.js("return window.saved.text()").splitlines()))
    assert [row["output.label"] for row in rows] == ["<i>a, b</i>", "", "<i>c</i>"]
    assert [row["label"] for row in rows] == ["mine", "", ""]
    assert [row["error"] for row in rows] == ["", "It cannot be sorted.", ""]


def test_a_stopped_table_begins_no_further_row(runtime: Sorting, page: Callable[..., Page], tmp_path: Path) -> None:
    runtime.pause = threading.Event()
    table = tmp_path / "long.csv"
    table.write_text("text\n" + "x\n" * 50, encoding="utf-8")
    shown = page()
    shown.view("tasks")
    shown.type(".drop input", str(table))
    shown.wait(lambda: len(runtime.inputs) == 4)
    shown.press("Stop")
    shown.wait(lambda: shown.button("Download"))
    runtime.pause.set()
    assert len(runtime.inputs) == 4

"""LLMasOS's own tests of a command, run on both of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmasos_command_tasks.batch import verb as batch_verb
from llmasos_command_tasks.examples import verb as examples_verb
from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, run_command


class TestBatch(CommandConformance):
    module = "llmasos_command_tasks.batch"
    # Without --json the figures are a note on standard error, and nothing is on standard output.
    examples = (("echo", "--batch", "rows.jsonl", "--output", "out.jsonl", "--times", "2", "--json"),)

    def prepare(self, folder: Path) -> None:
        (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')


class TestExamples(CommandConformance):
    module = "llmasos_command_tasks.examples"
    examples = (("--task", "echo", "examples.csv"), ("--task", "echo", "one", "two", "examples.csv"))

    def prepare(self, folder: Path) -> None:
        (folder / "examples.csv").write_text("text,expected\na,a\nb,a\n")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,times\na,\nb,3\n,oops\n")
    return SandboxCommandContext(root=tmp_path)


def test_a_batch_answers_each_row_and_tells_the_figures(context: SandboxCommandContext, tmp_path: Path) -> None:
    """An input of the command line is every row's, unless the row has its own; refused rows make the exit code 1."""
    arguments = ("echo", "--batch", "rows.csv", "-o", "out.jsonl", "--times", "2")
    done = run_command(batch_verb.make(context), *arguments)
    assert (done.code, done.output) == (1, "")
    assert context.notes[-1].startswith("3 rows in ")
    assert ", 1 were refused; see out.jsonl." in context.notes[-1]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("output", {}).get("text") for line in lines] == ["aa", "bbb", None]
    again = run_command(batch_verb.make(context), *arguments, "--json")
    found = json.loads(again.output)
    assert (found["done"], found["skipped"], found["rows"], found["errors"]) == (0, 3, 3, 1)


def test_a_quiet_batch_says_nothing(context: SandboxCommandContext) -> None:
    done = run_command(batch_verb.make(context), "echo", "--batch", "rows.csv", "-o", "out.jsonl", "-q")
    assert (done.code, done.output, done.errors, context.notes) == (1, "", "", [])


def test_a_model_that_takes_many_requests_is_told_before_it_is_used(
    context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both commands, each time they open one."""
    told: list[Any] = []
    monkeypatch.setattr(type(context.scripted), "prefer_throughput", lambda model: told.append(len(model.calls)))
    run_command(batch_verb.make(context), "echo", "--batch", "rows.csv", "-o", "out.jsonl")
    Path("data.csv").write_text("text,label\na,a\n")
    run_command(examples_verb.make(context), "--task", "echo", "one", "two", "data.csv")
    assert told == [0, 0, 0]
    assert context.asked == [None, "one", "two"]


@pytest.mark.parametrize(
    ("verb", "arguments", "sentence"),
    [
        (batch_verb, ("echo", "--batch", "rows.csv"), "--output answers.jsonl"),
        (batch_verb, ("echo", "--batch", "none.jsonl", "-o", "x.jsonl"), "none.jsonl cannot be read"),
        (batch_verb, ("echo", "--batch", "rows.csv", "-o", "x.jsonl", "--texr", "x"), "texr"),
        (examples_verb, ("--task", "echo"), "evaluate --task NAME data.jsonl"),
        (examples_verb, ("--task", "echo", "none.csv"), "none.csv cannot be read"),
    ],
)
def test_wrong_use_is_one_sentence(context: SandboxCommandContext, verb: Any, arguments: tuple[str, ...], sentence: str) -> None:
    """And no file is begun."""
    done = run_command(verb.make(context), *arguments)
    assert done.code == 2
    assert sentence in done.error
    assert not Path("x.jsonl").exists()

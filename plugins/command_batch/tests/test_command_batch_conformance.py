"""LLMasOS's own tests of a command, run on this one; and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmasos_command_batch.verb import make
from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, run_command


class TestBatch(CommandConformance):
    module = "llmasos_command_batch"
    # Without --json the figures are a note on standard error, and nothing is on standard output.
    examples = (("echo", "--batch", "rows.jsonl", "--output", "out.jsonl", "--times", "2", "--json"),)

    def prepare(self, folder: Path) -> None:
        (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,times\na,\nb,3\n,oops\n")
    return SandboxCommandContext(root=tmp_path)


def test_a_batch_answers_each_row_and_tells_the_figures(context: SandboxCommandContext, tmp_path: Path) -> None:
    """An input of the command line is every row's, unless the row has its own; refused rows make the exit code 1."""
    arguments = ("echo", "--batch", "rows.csv", "-o", "out.jsonl", "--times", "2")
    done = run_command(make(context), *arguments)
    assert (done.code, done.output) == (1, "")
    assert context.notes[-1].startswith("3 rows in ")
    assert ", 1 were refused; see out.jsonl." in context.notes[-1]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("output", {}).get("text") for line in lines] == ["aa", "bbb", None]
    again = run_command(make(context), *arguments, "--json")
    found = json.loads(again.output)
    assert (found["done"], found["skipped"], found["rows"], found["errors"]) == (0, 3, 3, 1)


def test_a_quiet_batch_says_nothing(context: SandboxCommandContext) -> None:
    done = run_command(make(context), "echo", "--batch", "rows.csv", "-o", "out.jsonl", "-q")
    assert (done.code, done.output, done.errors, context.notes) == (1, "", "", [])


def test_a_model_that_takes_many_requests_is_told_before_it_is_used(
    context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would run no more of them at once than a conversation does."""
    told: list[Any] = []
    monkeypatch.setattr(type(context.scripted), "prefer_throughput", lambda model: told.append(len(model.calls)))
    run_command(make(context), "echo", "--batch", "rows.csv", "-o", "out.jsonl")
    assert told == [0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("echo", "--batch", "rows.csv"), "--output answers.jsonl"),
        (("echo", "--batch", "none.jsonl", "-o", "x.jsonl"), "none.jsonl cannot be read"),
        (("echo", "--batch", "rows.csv", "-o", "x.jsonl", "--texr", "x"), "texr"),
    ],
)
def test_wrong_use_is_one_sentence(context: SandboxCommandContext, arguments: tuple[str, ...], sentence: str) -> None:
    """And no file is begun."""
    done = run_command(make(context), *arguments)
    assert done.code == 2
    assert sentence in done.error
    assert not Path("x.jsonl").exists()

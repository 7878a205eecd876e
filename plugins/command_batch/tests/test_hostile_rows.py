"""Batches leave alone what they did not write, and a row that no task can read is that row's own matter."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import pytest

from llmasos_command_batch.run import run_batch
from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.testing import ScriptedTaskModel

core = pytest.importorskip("llmasos.cli.command_context", reason="Core reads a task's inputs.")

MODEL = ScriptedTaskModel()


def named(task):
    """The task as a command gets it."""
    return core.OpenedTask("repeat", task)


@attrs.frozen
class Inputs:
    text: str


@attrs.frozen
class Output:
    text: str


class Repeat:
    """Says its input again."""

    inputs, output = Inputs, Output

    def run(self, model, inputs):
        return Output(inputs.text)


ROWS = [{"text": "a"}, {"text": "b"}]
FOREIGN = ["My thesis, the only copy.", "one line\n", '{"a": 1}\n', "[1, 2]", "\n", "{\n}", '{"key": "x", "index": 0}\n', "\ufeff{}"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_no_batch_wrote_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    output = tmp_path / "thesis.jsonl"
    output.write_text(content)
    with pytest.raises(RequestError, match=r"thesis\.jsonl is a file that no batch has written; name another output file"):
        run_batch(named(Repeat()), MODEL, ROWS, output)
    assert output.read_text() == content


def test_a_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for content in ("My thesis", ""):
        target.write_text(content)
        link = tmp_path / "out.jsonl"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(RequestError, match="is a link, and answers are written to a file of their own"):
            run_batch(named(Repeat()), MODEL, ROWS, link)
        assert target.read_text() == content
    dangling = tmp_path / "dangling.jsonl"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="is a link"):
        run_batch(named(Repeat()), MODEL, ROWS, dangling)
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "pipe", tmp_path):
        with pytest.raises(RequestError, match="is no file, and answers are written to one"):
            run_batch(named(Repeat()), MODEL, ROWS, output)


@pytest.mark.parametrize("torn", ['{"index": 0, "key": "ab', '{"ind', "{", "\0\0\0\0", "{" + "\0" * 20, ""])
def test_a_torn_first_line_of_a_batch_is_still_mended(tmp_path: Path, torn: str) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text(torn)
    assert run_batch(named(Repeat()), MODEL, ROWS, output).rows == 2
    assert [json.loads(line)["output"]["text"] for line in output.read_text().splitlines()] == ["a", "b"]


@pytest.mark.parametrize("place", [0, 1])
def test_half_a_surrogate_pair_fails_its_row_and_the_batch_goes_on(tmp_path: Path, place: int) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = ['{"text": "good"}', '{"text": "fine"}']
    lines.insert(place, '{"text": "bad \\ud800"}')
    rows.write_text("\n".join(lines))
    for _ in range(2):  # a second run knows the refused row again
        report = run_batch(named(Repeat()), MODEL, rows, tmp_path / "out.jsonl")
        found = [json.loads(line) for line in report.path.read_text().splitlines()]
        assert (report.rows, report.errors) == (3, 1)
        assert "holds half a surrogate pair" in found[place]["error"]
        assert [line["output"]["text"] for line in found if "output" in line] == ["good", "fine"]


def test_half_a_surrogate_pair_in_an_answer_is_written_as_json_can(tmp_path: Path) -> None:
    class Half(Repeat):
        def run(self, model, inputs):
            return Output("\udc80")

    report = run_batch(named(Half()), MODEL, ROWS, tmp_path / "out.jsonl")
    assert [json.loads(line)["output"]["text"] for line in report.path.read_text().splitlines()] == ["\udc80"] * 2


def test_a_deep_row_fails_alone_and_a_line_too_deep_to_read_is_one_sentence(tmp_path: Path) -> None:
    deep = "[" * 100 + "]" * 100
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f'{{"text": "a"}}\n{{"text": {deep}}}\n{{"text": "b"}}\n')
    report = run_batch(named(Repeat()), MODEL, rows, tmp_path / "out.jsonl")
    assert (report.rows, report.errors) == (3, 1)
    rows.write_text(f'{{"text": "a"}}\n{{"text": {"[" * 200_000}\n')
    with pytest.raises(LLMasOSError, match=r"rows\.jsonl, line 2 is no JSON: it is nested too deep\."):
        run_batch(named(Repeat()), MODEL, rows, tmp_path / "other.jsonl")

"""Rows of files, and the inputs of a task that they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import EchoTask
from llmasos_task_kit.rows import count_rows, read_inputs, read_rows


def test_a_row_is_the_tasks_inputs(tmp_path: Path) -> None:
    """Its own values win over those common to all rows, keys to ignore are left out, and texts of a CSV file become what the task takes."""
    (tmp_path / "rows.csv").write_text("text,times,id\na,3,x\nb,,y\n")
    found = [read_inputs(EchoTask("echo"), row, common={"times": 2}, ignore=("id",)) for row in read_rows(tmp_path / "rows.csv")]
    assert [(inputs.text, inputs.times) for inputs in found] == [("a", 3), ("b", 2)]
    assert count_rows(tmp_path / "rows.csv") == 2


def test_a_row_that_does_not_fit_is_told_with_its_line(tmp_path: Path) -> None:
    """Empty lines count, and hold no row."""
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n\n{"text": 7}\n')
    rows = list(read_rows(tmp_path / "rows.jsonl"))
    assert [row.index for row in rows] == [0, 1]
    with pytest.raises(RequestError, match=r"rows\.jsonl, line 3: text is 7"):
        read_inputs(EchoTask("echo"), rows[1])


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("rows.csv", b'text\n"open', "is no CSV"),
        ("rows.csv", b"text,times\na\n", "fewer fields than the header"),
        ("rows.csv", b"text\na,b\n", "more fields than the header"),
        ("rows.jsonl", b'{"text": "a"}\n{"text"\n', "line 2 is no JSON"),
        ("rows.jsonl", b"[1]\n", "must be a JSON object"),
        ("rows.jsonl", b'{"text": "\xff"}', "not in UTF-8"),
        ("rows.txt", b"a", "neither .jsonl nor .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=match):
        list(read_rows(tmp_path / name))

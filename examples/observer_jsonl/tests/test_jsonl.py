"""The observer passes the conformance kit, and its lines say what became of each request."""

from __future__ import annotations

import json
from pathlib import Path

import observer_jsonl
import pytest
from observer_jsonl import line

from llmasos_hookspecs.testing.observer import RECORDS, ObserverConformance


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default file is written."""
    monkeypatch.chdir(tmp_path)


class TestConformance(ObserverConformance):
    module = "observer_jsonl"


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(each) for each in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_for_each_request(log: Path) -> None:
    """In order, whole, and with what never happened as null."""
    for record in RECORDS.values():
        observer_jsonl.llmasos_request_finished(record, observer_jsonl.Options(path=str(log)))
    lines = read(log)
    assert [each["id"] for each in lines] == [record.id for record in RECORDS.values()]
    assert [each["finish_reason"] for each in lines] == [record.finish_reason for record in RECORDS.values()]
    assert lines[0]["ttft_s"] == 0.5
    assert lines[0]["total_s"] == 2.0
    assert lines[2]["ttft_s"] is None
    assert lines[4]["error"] == "The engine failed: 100% {of} it."


def test_times_are_those_of_the_calendar() -> None:
    assert line(RECORDS["served"], now=11.0, wall=1_700_000_010.0)["queued_at"] == "2023-11-14T22:13:20.000+00:00"


def test_a_pipeline_tells_it(log: Path, tmp_path: Path) -> None:
    """Composed by config, it writes what a real request took."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

    tiny_checkpoint("llama", folder=tmp_path / "model")
    config = {"model": {"source": str(tmp_path / "model")}, "observers": [{"use": "jsonl", "path": str(log)}]}
    with llmasos.Pipeline.from_config(config) as pipeline:
        answer = pipeline.model.generate("otters", max_new_tokens=5)
    (found,) = read(log)
    assert found["prompt_tokens"] == answer.prompt_tokens
    assert found["generated_tokens"] == len(answer.tokens)
    assert found["finish_reason"] == answer.finish_reason

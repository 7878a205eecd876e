"""A batch answers every row once, whatever stops it in between."""

from __future__ import annotations

import csv
import json
import signal
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from core.tests.forked_children import ForkedChildren
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_command_batch.run import run_batch
from llmasos_hookspecs import EngineFailed, LLMasOSError, PluginError, Rejected, RequestError
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_task_kit.concurrency import BatchProgress
from llmasos_task_kit.results import ResultFile

core = pytest.importorskip("llmasos.cli.command_context", reason="Core reads a task's inputs.")


@attrs.frozen(kw_only=True)
class Inputs:
    text: str
    times: int = 1
    labels: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Output:
    text: str
    labels: tuple[str, ...] = ()


class Repeat:
    """Repeats a text; counts what it was asked."""

    inputs = Inputs
    output = Output

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, model: Any, inputs: Inputs) -> Output:
        self.asked.append(inputs.text)
        if inputs.text == "refuse":
            raise RequestError("This text is refused.")
        if inputs.text == "stop":
            raise EngineFailed("The engine is gone.")
        if inputs.text == "bug":
            raise KeyError("missing")
        return Output(text=inputs.text * inputs.times, labels=inputs.labels)


MODEL = ScriptedTaskModel()


def named(task: Any) -> Any:
    """The task as a command gets it."""
    return core.OpenedTask("repeat", task)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_answered_in_order_with_progress(tmp_path: Path) -> None:
    seen: list[BatchProgress] = []
    rows = [{"text": f"{n} 天气🙂", "times": 2} for n in range(50)]
    report = run_batch(named(Repeat()), MODEL, rows, tmp_path / "new" / "out.jsonl", workers=7, total=50, progress=seen.append)
    assert [line["output"]["text"] for line in lines(report.path)] == [f"{n} 天气🙂" * 2 for n in range(50)]
    assert [line["index"] for line in lines(report.path)] == list(range(50))
    assert (report.rows, report.errors, report.progress.done, report.progress.skipped) == (50, 0, 50, 0)
    assert seen[-1].done == seen[-1].total == 50
    assert seen[-1].rows_per_second > 0
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


def test_a_second_run_repeats_nothing(tmp_path: Path) -> None:
    rows = [{"text": str(n)} for n in range(10)]
    run_batch(named(Repeat()), MODEL, rows[:4], tmp_path / "out.jsonl")
    task = Repeat()
    report = run_batch(named(task), MODEL, rows, tmp_path / "out.jsonl")
    assert sorted(task.asked) == [str(n) for n in range(4, 10)]
    assert (report.progress.done, report.progress.skipped, report.rows) == (6, 4, 10)
    assert [line["index"] for line in lines(report.path)] == list(range(10))


def test_other_rows_than_those_in_the_file_are_refused(tmp_path: Path) -> None:
    run_batch(named(Repeat()), MODEL, [{"text": "a"}], tmp_path / "out.jsonl")
    with pytest.raises(RequestError, match=r"another row 0; choose another output file"):
        run_batch(named(Repeat()), MODEL, [{"text": "b"}], tmp_path / "out.jsonl")


def test_a_refused_row_is_a_result_like_any_other(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [{"text": "a"}, {"text": "refuse"}, {"text": 3}, {"text": "b"}]
    report = run_batch(named(Repeat()), MODEL, rows, tmp_path / "out.jsonl")
    found = lines(report.path)
    assert report.errors == 2
    assert found[1]["error"] == "This text is refused."
    assert "row 2: text is" in found[2]["error"]
    assert found[3]["output"]["text"] == "b"
    assert run_batch(named(Repeat()), MODEL, rows, tmp_path / "out.jsonl").progress.done == 0


def test_a_first_row_that_does_not_fit_stops_the_batch_before_it_begins(tmp_path: Path) -> None:
    task = Repeat()
    with pytest.raises(RequestError, match=r"txet is unknown; did you mean \"text\""):
        run_batch(named(task), MODEL, [{"txet": "a"}, {"text": "b"}], tmp_path / "out.jsonl")
    assert task.asked == []


@pytest.mark.parametrize(
    ("word", "error", "match"), [("stop", EngineFailed, "gone"), ("bug", PluginError, "The task repeat failed at row 30: KeyError")]
)
def test_what_is_finished_when_the_model_fails_is_kept(tmp_path: Path, word: str, error: type[Exception], match: str) -> None:
    rows = [{"text": word if n == 30 else str(n)} for n in range(60)]
    with pytest.raises(error, match=match):
        run_batch(named(Repeat()), MODEL, rows, tmp_path / "out.jsonl", workers=2)
    kept = {line["index"] for line in lines(tmp_path / "out.jsonl")}
    assert set(range(28)) <= kept
    task = Repeat()
    run_batch(
        named(task), MODEL, [{"text": str(n) if n not in kept else row["text"]} for n, row in enumerate(rows)], tmp_path / "out.jsonl"
    )
    assert sorted(task.asked, key=int) == [str(n) for n in range(60) if n not in kept]


def test_a_scheduler_that_is_full_is_waited_for(tmp_path: Path) -> None:
    class Full(Repeat):
        refusals = 5

        def run(self, model: Any, inputs: Inputs) -> Output:
            if self.refusals:
                self.refusals -= 1
                raise Rejected("The queue is full.", retry_after=0.001)
            return super().run(model, inputs)

    report = run_batch(named(Full()), MODEL, [{"text": "a"}, {"text": "b"}], tmp_path / "out.jsonl", workers=1)
    assert [line["output"]["text"] for line in lines(report.path)] == ["a", "b"]


def test_workers_run_at_the_same_time(tmp_path: Path) -> None:
    barrier = threading.Barrier(6, timeout=120)

    class Meeting(Repeat):
        def run(self, model: Any, inputs: Inputs) -> Output:
            barrier.wait()  # passes only when six are here
            return super().run(model, inputs)

    assert run_batch(named(Meeting()), MODEL, [{"text": str(n)} for n in range(12)], tmp_path / "out.jsonl", workers=6).errors == 0


def test_csv_rows_are_read_as_the_inputs_want_them(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    with table.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows(
            [["text", "times", "labels", "id"], ["one,\ntwo", "2", '["a", "b"]', "7"], ["", "", "", ""], ["3", "1", "alone", "8"]]
        )
    report = run_batch(named(Repeat()), MODEL, table, tmp_path / "out.jsonl", common={"times": 3})
    assert [line["row"] for line in lines(report.path)] == [{"id": "7"}, {"id": ""}, {"id": "8"}], "What is no input goes with the answer."
    assert [line["output"] for line in lines(report.path)] == [
        {"text": "one,\ntwo" * 2, "labels": ["a", "b"]},
        {"text": "", "labels": []},
        {"text": "3", "labels": ["alone"]},
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.data())
def test_a_file_cut_anywhere_loses_at_most_the_row_that_was_cut(tmp_path: Path, texts: list[str], data: st.DataObject) -> None:
    path = tmp_path / "out.jsonl"
    path.unlink(missing_ok=True)
    rows = [{"text": text} for text in texts if text not in ("refuse", "stop", "bug")]
    run_batch(named(Repeat()), MODEL, rows, path, workers=1)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    padding = data.draw(st.sampled_from((b"", b"\0" * 40, b"\0" * 40 + b"\n"))) if cut < len(whole) else b""
    path.write_bytes(whole[:cut] + padding)
    task = Repeat()
    run_batch(named(task), MODEL, rows, path, workers=1)
    assert path.read_bytes() == whole
    assert len(task.asked) == len(rows) - whole[:cut].count(b"\n")


def test_a_file_that_is_no_result_of_a_batch_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"note": "mine"}\n{"note": "too"}\n')
    with pytest.raises(LLMasOSError, match="is a file that no batch has written"):
        run_batch(named(Repeat()), MODEL, [{"text": "a"}], path)
    assert path.read_text() == '{"note": "mine"}\n{"note": "too"}\n'


def test_two_processes_cannot_write_one_file(tmp_path: Path, forked_children: ForkedChildren) -> None:
    with ResultFile(tmp_path / "out.jsonl"):
        code = f"""
            from pathlib import Path
            from llmasos_task_kit.results import ResultFile
            from llmasos_hookspecs import RequestError
            try:
                ResultFile(Path({str(tmp_path / "out.jsonl")!r})).__enter__()
            except RequestError as error:
                print(error)
        """
        said, _ = forked_children.python(textwrap.dedent(code)).communicate()
    assert "being written by another process" in said


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import attrs
    from llmasos.cli.command_context import OpenedTask
    from llmasos_command_batch.run import run_batch

    @attrs.frozen
    class Inputs:
        text: str

    @attrs.frozen
    class Output:
        text: str

    class Slow:
        inputs, output = Inputs, Output
        def run(self, model, inputs):
            import hashlib
            return Output(hashlib.pbkdf2_hmac("sha256", inputs.text.encode(), b"salt", 5_000).hex())

    folder, stop = Path(sys.argv[1]), int(sys.argv[2])
    told = []
    def show(progress):
        told.append(progress)
        if len(told) == stop:
            os.kill(os.getpid(), signal.SIGKILL)
    rows = [{"text": str(n)} for n in range(200)]
    run_batch(OpenedTask("slow", Slow()), None, rows, folder / "out.jsonl", workers=4, progress=show)
    print(told[-1].done, told[-1].skipped)
"""


def test_a_batch_that_is_killed_loses_and_repeats_nothing(tmp_path: Path, forked_children: ForkedChildren) -> None:
    """Killed three times in the middle, with three rows in progress, and started again, every row was answered, and none that was on disk a
    second time."""
    path = tmp_path / "out.jsonl"
    for stop in (3, 20, 8):
        before = path.read_bytes() if path.exists() else b""
        process = forked_children.python(textwrap.dedent(KILLED), tmp_path, str(stop))
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    kept = path.read_bytes().count(b"\n")
    assert 0 < kept < 200
    last = forked_children.python(textwrap.dedent(KILLED), tmp_path, "0")
    assert list(map(int, last.communicate()[0].split())) == [200 - kept, kept]
    assert [line["index"] for line in lines(path)] == list(range(200))

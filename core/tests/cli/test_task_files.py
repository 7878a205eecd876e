"""Tasks over whole files: killed and started again, and several models on one file of examples in one table."""

from __future__ import annotations

import csv
import json
import signal
import subprocess

import pytest

pytestmark = pytest.mark.slow

#: Runs a batch as the command line does, and stands still once ten rows are on disk.
STANDS_STILL = """
import json, sys
import llmasos
from llmasos.cli.command_context import OpenedTask
from llmasos_command_batch.run import run_batch

source, task, rows, output, common = sys.argv[1:]

def stand_still(now):
    if now.done >= 10:
        print(now.done, flush=True)
        sys.stdin.read()

with llmasos.load_model(source, loader="onnx") as model:
    run_batch(OpenedTask(task, model.pipeline.task(task)), model, rows, output, common=json.loads(common), workers=4, progress=stand_still)
"""
BATCHES = {
    "classify": ("text", {"labels": ["food", "books", "travel"]}),
    "grade": ("submission", {"rubric": [{"name": "Argument", "points": 5}], "reason_tokens": 2}),
}


@pytest.mark.parametrize(("task", "kind"), [("classify", "jsonl"), pytest.param("grade", "csv", marks=pytest.mark.long)])
def test_a_killed_batch_loses_and_repeats_nothing(cli, model, tiny, task, kind):
    """kill -9 with rows on disk, rows on their way and rows to come: the next run computes those that are not on disk, and no other."""
    field, common = BATCHES[task]
    rows, output, texts = cli.folder / f"rows.{kind}", cli.folder / "out.jsonl", [f"Otters, number {n} 天气🙂" for n in range(30)]
    with rows.open("w", encoding="utf-8", newline="") as stream:
        if kind == "csv":
            csv.writer(stream).writerows([[field], *([text] for text in texts)])
        else:
            stream.writelines(json.dumps({field: text}) + "\n" for text in texts)
    process = cli.start(tiny, task, rows, output, json.dumps(common), code=STANDS_STILL, stderr=subprocess.DEVNULL)
    with process.stdin, process.stdout:
        done = int(process.stdout.readline())
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    before = output.read_bytes().splitlines()
    assert 10 <= len(before) == done < 30
    inputs = [word for key, value in common.items() for word in (f"--{key.replace('_', '-')}", json.dumps(value))]
    again = cli("task", task, *model, "--batch", rows, "--output", output, *inputs, "--json")
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["done"], report["skipped"], report["rows"], report["errors"]) == (30 - done, done, 30, 0)
    assert report["rows_per_second"] > 0
    after = output.read_bytes().splitlines()
    assert set(before) < set(after)
    assert [json.loads(line)["index"] for line in after] == list(range(30))


@pytest.mark.parametrize("more", [(), pytest.param(("torch",), marks=pytest.mark.long)], ids=["onnx", "onnx and torch"])
def test_models_accelerators_and_backends_stand_in_one_table(cli, tiny, more):
    """A config names what is compared; each gets its row, and a table of what it confused."""
    if more:
        pytest.importorskip("llmasos_backend_torch")
    (cli.folder / "compare.toml").write_text(
        f"""
        [models.plain]
        source = "{tiny}"
        loader = {{use = "onnx", precision = "fp32"}}
        [models.torch]
        source = "{tiny}"
        loader = {{use = "torch", dtype = "float32"}}
        [models.small]
        source = "{tiny}"
        loader = {{use = "onnx"}}
        accelerate = [{{use = "quant", bits = 4, method = "rtn"}}]
        """
    )
    examples = [{"text": f"It was {'good' if n % 2 else 'bad'}, {n}.", "label": "positive" if n % 2 else "negative"} for n in range(12)]
    (cli.folder / "examples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in examples))
    arguments = ("evaluate", "--task", "sentiment", "--config", "compare.toml", "plain", *more, "small", "examples.jsonl")
    rows = json.loads(cli(*arguments, "--json").stdout)["rows"]
    assert [row["model"] for row in rows] == ["plain", *more, "small"]
    assert all(row["examples"] == 12 and row["errors"] == 0 and 0 <= row["metrics"]["accuracy"] <= 1 for row in rows)
    if more:
        assert rows[0]["metrics"] == rows[1]["metrics"], "the same weights answer alike on both backends"
    shown = cli(*(word for word in arguments if word != "torch"))
    assert shown.returncode == 0, shown.stderr
    heading, *lines = [line.split("\t") for line in shown.stdout.splitlines() if line.count("\t") > 4]
    assert heading[:2] == ["model", "accuracy"]
    assert [line[0] for line in lines] == ["plain", "small"]
    assert shown.stdout.count("positive") >= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--task", "sentiment", "none.jsonl"),
        ("evaluate", "none-such-model", "--corpus", "none.jsonl"),
        ("task", "sentiment", "--model", "none-such-model", "--batch", "none.jsonl", "--output", "out.jsonl"),
    ],
    ids=" ".join,
)
def test_a_file_that_is_not_there_is_told_before_a_model_is_looked_for(cli, arguments):
    """What is cheap to check comes before what is dear: the store is empty, and nothing may be fetched."""
    done = cli(*arguments, "--set", "offline=true")
    assert done.returncode in (1, 2)
    assert "none.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1

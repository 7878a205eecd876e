"""The demo's loader on ARM64, emulated by qemu, computes what it computes here. `make test-arm` runs it, `make test` does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools import arm

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests" / "arm_program.py"


@pytest.fixture(scope="module")
def arm_python() -> Path:
    """The ARM interpreter with the demo's packages, kept in .venv/arm between runs; made anew where a package or a pin changed."""
    try:
        return arm.prepare(ROOT / ".venv" / "arm")
    except arm.Unavailable as error:
        pytest.skip(str(error))


def computed(python: Path, model: Path, folder: Path, home: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What the program prints, and the logits that it writes, in float32 so that both processors round alike."""
    logits = folder / f"{home.name}.npy"
    done = subprocess.run(
        [python, PROGRAM, model, logits, "fp32"],
        env={**os.environ, "LLMASOS_HOME": str(home), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), np.load(logits)


@pytest.mark.arm
@pytest.mark.timeout(3600)
def test_an_arm_processor_computes_the_same_tokens_and_logits(arm_python: Path, smollm2_gguf: Path, tmp_path: Path) -> None:
    """Of the real model: the greedy tokens are equal, and so are logits, to 1e-5 of the largest one."""
    here, expected = computed(Path(sys.executable), smollm2_gguf, tmp_path, tmp_path / "x86")
    there, found = computed(arm_python, smollm2_gguf, tmp_path, tmp_path / "arm")
    assert (there["machine"], there["features"]) == ("aarch64", ["dotprod"])
    assert there["tokens"] == here["tokens"]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()

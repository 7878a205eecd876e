"""What OpenVINO does to its process, held in check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_LOAD = """
import os, sys
from pathlib import Path
from llmasos_hookspecs import EngineLimits, Row
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext, tiny_checkpoint

plugin = PluginSandbox("llmasos_backend_openvino")
context = SandboxContext(root=Path(sys.argv[1]), limits=EngineLimits(threads=2))
engine = plugin.call("llmasos_load", checkpoint=tiny_checkpoint("llama"), options=plugin.options(precision="f32"), context=context)
engine.step([Row(engine.open(), [1, 2, 3], 0)])
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _LOAD + code, str(folder)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")
def test_a_forked_child_ends(tmp_path: Path) -> None:
    """With its own status, though the parent has threads that OpenVINO would wait for; the parent goes on."""
    code = """
child = os.fork()
if child == 0:
    sys.exit(7)
engine.step([Row(engine.open(), [1, 2, 3], 0)])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def test_openvino_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    """Its package for telemetry is not imported; who wants it can still import it."""
    code = """
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
import openvino_telemetry
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

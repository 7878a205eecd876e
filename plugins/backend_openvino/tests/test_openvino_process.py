"""What OpenVINO does to its process, held in check."""

from __future__ import annotations

import subprocess
import sys

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


_SAY = """
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
import openvino_telemetry
if sys.platform == "linux":
    child = os.fork()
    if child == 0:
        sys.exit(7)
    engine.step([Row(engine.open(), [1, 2, 3], 0)])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of a process that loads a model, looks at what is imported, and forks."""
    command = [sys.executable, "-c", _LOAD + _SAY, str(tmp_path_factory.mktemp("root"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")
def test_a_forked_child_ends(said: list[str]) -> None:
    """With its own status, though the parent has threads that OpenVINO would wait for; the parent goes on."""
    assert said[1:] == ["7"]


def test_openvino_reports_nothing_to_its_makers(said: list[str]) -> None:
    """Its package for telemetry is not imported; who wants it can still import it."""
    assert said[0] == "[]"

"""Random shapes and contents by the native program of ``make sanitize``: here under sanitizers, and on an emulated ARM64 processor."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from plugins.kernels_cpu.tests.scripts import PACKAGE, load_script
from tools import arm


@pytest.fixture
def sanitize(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script ``sanitize.py``, which imports its neighbour ``compile.py``."""
    monkeypatch.setitem(sys.modules, "compile", load_script("compile"))
    return load_script("sanitize")


@pytest.mark.long
def test_sanitizers_find_nothing(sanitize: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And every instruction set gives the bits of plain C++, with the tiles of AMX emulated; in parts, each of which is reported."""
    monkeypatch.setattr(sanitize, "PART", 500)
    monkeypatch.setattr(sys, "argv", ["sanitize.py", "1000", "--seed", "7", "--first", "2000"])
    assert sanitize.main() == 0
    reports = sorted(capsys.readouterr().out.splitlines())
    assert [report.partition(" cases")[0] for report in reports] == ["Seed 7, from case 2000: 500", "Seed 7, from case 2500: 500"]
    assert all(report.endswith(": 0 failures") for report in reports)


@pytest.mark.arm
@pytest.mark.timeout(1800)
def test_arm_processors_give_the_same_bits(sanitize: ModuleType, tmp_path: Path) -> None:
    """With DOTPROD, and with I8MM too; compiled by ziglang, run by qemu."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("pip install ziglang, which compiles for ARM64.")
    try:
        qemu = arm.emulator(PACKAGE.parents[1] / ".venv" / "arm-qemu")
    except arm.Unavailable as error:
        pytest.skip(str(error))
    program = tmp_path / "random_shapes"
    command = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl"]
    sanitize.compile_library(program, target="aarch64", command=command, extra=("-static",), files=sanitize.FILES)
    for processor, sets in (("max", "i8mm dotprod scalar"), ("neoverse-n1", "dotprod scalar"), ("cortex-a72", "scalar")):
        done = subprocess.run([qemu, "-cpu", processor, program, "200", "3"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == f"200 cases, instruction sets {sets}: 0 failures\n"

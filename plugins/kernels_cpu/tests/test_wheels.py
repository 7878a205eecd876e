"""Wheels for other platforms, compiled by ziglang."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from plugins.kernels_cpu.tests.scripts import PACKAGE, load_script
from tools import arm

ROOT = PACKAGE.parents[1]
#: Multiplies by every instruction set of the processor, and prints their names; activations that are whole numbers are not rounded.
PRODUCT = """
import numpy as np
from llmasos_hookspecs import QuantizedTensor
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.packing import pack

random = np.random.default_rng(1)
codes = random.integers(0, 16, (40, 96), dtype=np.uint8)
x = random.integers(-127, 128, (3, 96)).astype(np.float32)
x[:, ::32] = 127
matrix = pack([QuantizedTensor(codes=codes, scales=np.full((40, 3), 0.5, np.float32), bits=4, group=32)])
expected = x @ (0.5 * (codes.astype(np.float32) - 8)).T
sets = [name for name in library.names() if library.runs(name)]
assert all(np.array_equal(library.multiply(matrix, x, name=name), expected) for name in sets)
print(*sets)
"""


def built(architecture: str, folder: Path, package: Path = PACKAGE) -> Path:
    """The wheel of a package, that of the kernels for an architecture."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("pip install ziglang, which compiles for other platforms.")
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "--outdir", str(folder), str(package)]
    environment = {**os.environ, "LLMASOS_WHEEL_PLATFORM": f"manylinux_2_17_{architecture}"}
    before = set(folder.iterdir())
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (wheel,) = set(folder.iterdir()) - before
    return wheel


def test_a_platform_names_its_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its glibc and its architecture; platforms that ziglang makes no wheels for are refused by name."""
    compile_script = load_script("compile")
    monkeypatch.setattr(compile_script.importlib.util, "find_spec", str)
    command, machine = compile_script.cross_compiler("manylinux_2_17_aarch64")
    assert command[-3:] == ["c++", "-target", "aarch64-linux-gnu.2.17"]
    assert machine == "aarch64"
    with pytest.raises(compile_script.NoCompiler, match="no compiler for win_amd64: name one like manylinux_2_17_x86_64"):
        compile_script.cross_compiler("win_amd64")
    monkeypatch.setattr(compile_script.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(compile_script.NoCompiler, match="compiled by the package ziglang: pip install it"):
        compile_script.cross_compiler("manylinux_2_17_x86_64")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("architecture", "machine"), [("x86_64", 62), ("aarch64", 183)])
def test_a_wheel_needs_no_newer_glibc_than_it_says(architecture: str, machine: int, tmp_path: Path) -> None:
    """And nothing of a C++ library; its ELF header names the architecture."""
    wheel = built(architecture, tmp_path)
    assert wheel.name.endswith(f"-py3-none-manylinux_2_17_{architecture}.whl")
    with zipfile.ZipFile(wheel) as archive:
        (library,) = [name for name in archive.namelist() if name.endswith(".so")]
        content = archive.read(library)
    assert int.from_bytes(content[18:20], "little") == machine
    assert max(tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBC_([\d.]+)", content)) <= (2, 17)
    assert b"libstdc++.so" not in content
    assert b"RegisterCustomOps" in content


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel is for x86-64")
def test_a_wheel_computes_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """With the wheels that it requires, and numpy and attrs from the registry; by a library that ziglang compiled."""
    wheels = [built("x86_64", tmp_path / "wheels", ROOT / package) for package in ("hookspecs", "libs/decoder_kit", "plugins/kernels_cpu")]
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *map(str, wheels)], check=True, cwd=tmp_path)
    done = subprocess.run([python, "-I", "-c", PRODUCT], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "scalar"


@pytest.mark.arm
@pytest.mark.timeout(1800)
def test_a_wheel_for_arm_computes_there(tmp_path: Path) -> None:
    """On an emulated Neoverse, beside the demo's packages."""
    try:
        python = arm.prepare(ROOT / ".venv" / "arm")
    except arm.Unavailable as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(built("aarch64", tmp_path / "wheels")) as archive:
        archive.extractall(tmp_path / "packages")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "packages")}
    done = subprocess.run([python, "-c", PRODUCT], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["dotprod", "scalar"]

"""Wheels for other platforms, compiled by ziglang."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from plugins.kernels_cpu.tests.scripts import PACKAGE, load_script


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
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("pip install ziglang, which compiles for other platforms.")
    command = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(PACKAGE)]
    environment = {**os.environ, "LLMASOS_WHEEL_PLATFORM": f"manylinux_2_17_{architecture}"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (wheel,) = tmp_path.glob(f"*-py3-none-manylinux_2_17_{architecture}.whl")
    with zipfile.ZipFile(wheel) as archive:
        (library,) = [name for name in archive.namelist() if name.endswith(".so")]
        content = archive.read(library)
    assert int.from_bytes(content[18:20], "little") == machine
    assert max(tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBC_([\d.]+)", content)) <= (2, 17)
    assert b"libstdc++.so" not in content
    assert b"RegisterCustomOps" in content

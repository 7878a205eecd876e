"""Compiles the native library: `python compile.py FOLDER [FLAG ...]` prints where it is.

The compiler is what the environment variable CXX names, else the system's c++, g++ or clang++, else the one of the package ziglang, which
brings a whole toolchain as a wheel. Each instruction set is one file with flags of its own; all others run on any processor of the kind.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

NATIVE: Final = Path(__file__).with_name("native")
#: Files for any processor.
COMMON: Final = ("scalar", "kernels", "drawing", "pool", "abi", "onnx_operators", "onnx_attention")
_AVX512: Final = ("-O3", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c")
#: Machine -> file -> the flags of its instruction set.
INSTRUCTION_SETS: Final = {
    "x86_64": {
        "avx2": ("-O3", "-mavx2", "-mfma", "-mf16c"),
        "avx512": _AVX512,
        "avx512bf16": (*_AVX512, "-mavx512bf16"),
        "amx": (*_AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    },
    "aarch64": {
        "dotprod": ("-O3", "-mcpu=generic+dotprod"),
        "i8mm": ("-O3", "-mcpu=generic+dotprod+i8mm"),
    },
}
#: Without -ffp-contract=off a compiler may fuse what one instruction set computes in two steps, and another would round otherwise.
FLAGS: Final = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-pthread")
#: GCC takes the undefined operands of its own intrinsics for uninitialised variables (bug 105593).
GCC_FLAGS: Final = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")


class NoCompiler(Exception):
    """There is none."""


def compiler() -> list[str]:
    """The command of the C++ compiler. Raises ``NoCompiler``."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    if brought := _of_ziglang():
        return brought
    raise NoCompiler("There is no C++ compiler: install g++ or clang++, or pip install ziglang, or name one in the variable CXX.")


def machine(name: str | None = None) -> str:
    """This machine's architecture as the compilers call it."""
    name = (name or platform.machine()).lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def cross_compiler(tag: str) -> tuple[list[str], str]:
    """The command that compiles for a platform tag such as "manylinux_2_17_aarch64", and the architecture. Raises ``NoCompiler``."""
    found = re.fullmatch(r"manylinux_(\d+)_(\d+)_(x86_64|aarch64)", tag)
    if found is None:
        raise NoCompiler(f"There is no compiler for {tag}: name one like manylinux_2_17_x86_64 or manylinux_2_17_aarch64.")
    command = _of_ziglang()
    if not command:
        raise NoCompiler(f"Wheels for {tag} are compiled by the package ziglang: pip install it.")
    major, minor, architecture = found.groups()
    return [*command, "-target", f"{architecture}-linux-gnu.{major}.{minor}"], architecture


def compile_library(
    output: Path, *, target: str | None = None, extra: Sequence[str] = (), command: Sequence[str] = (), files: Sequence[str] = COMMON
) -> None:
    """Compile and link to ``output``: the library, or with ``files`` that hold a ``main`` a program.

    ``target``: another machine, for a compiler given in ``command`` that compiles for it. Raises ``CalledProcessError`` with what the
    compiler printed, and ``NoCompiler``.
    """
    command = list(command) or compiler()
    flags = [*FLAGS, *(() if _is_clang(command) else GCC_FLAGS)]
    sources = dict.fromkeys(files, ()) | INSTRUCTION_SETS.get(machine(target), {})
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = {name: Path(folder) / f"{Path(name).name}.o" for name in sources}
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for done in [
                pool.submit(_run, [*command, *flags, *own, *extra, "-c", str(NATIVE / f"{name}.cpp"), "-o", str(objects[name])])
                for name, own in sources.items()
            ]:
                done.result()
        linked = Path(folder) / output.name
        kind = [] if output.suffix == "" else ["-shared"]
        _run([*command, *kind, *extra, "-pthread", *map(str, objects.values()), "-o", str(linked)])
        linked.replace(output)  # whole or not at all, also where a process has the old one open


def digest() -> str:
    """A digest of all that the library is made of, and of the machine that it is for."""
    parts = [machine().encode(), sys.platform.encode(), Path(__file__).read_bytes()]
    parts += [path.name.encode() + path.read_bytes() for path in sorted(NATIVE.iterdir()) if path.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def library_name() -> str:
    return "libllmasos_kernels_cpu" + (".dylib" if sys.platform == "darwin" else ".so")


def _of_ziglang() -> list[str]:
    """The command of the compiler in the package ziglang; empty where that is not installed."""
    return [] if importlib.util.find_spec("ziglang") is None else [sys.executable, "-m", "ziglang", "c++"]


def _is_clang(command: Sequence[str]) -> bool:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return "clang" in done.stdout


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")


def main() -> int:
    output = Path(sys.argv[1]) / library_name()
    compile_library(output, extra=sys.argv[2:])
    print(output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

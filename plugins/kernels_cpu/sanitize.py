"""Runs random shapes and contents under AddressSanitizer and UndefinedBehaviorSanitizer: `python sanitize.py CASES`.

The tiles of AMX are emulated, so that the code for them runs on any processor with AVX-512.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from compile import COMMON, NATIVE, compile_library

#: What the program is made of: the library without its operators, and the test.
FILES: Final = (*(name for name in COMMON if not name.startswith("onnx_")), "tests/random_shapes")
EMULATED: Final = ("-include", str(NATIVE / "tests" / "emulated_tiles.h"))
SANITIZERS: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def build(folder: Path, extra: Sequence[str] = SANITIZERS) -> Path:
    """Compile the program into a folder."""
    program = folder / "random_shapes"
    compile_library(program, extra=(*EMULATED, *extra), files=FILES)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([build(Path(folder)), str(arguments.cases), str(arguments.seed)], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())

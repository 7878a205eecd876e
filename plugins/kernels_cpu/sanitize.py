"""Runs random shapes and contents under AddressSanitizer and UndefinedBehaviorSanitizer: `python sanitize.py CASES`.

The tiles of AMX are emulated, so that the code for them runs on any processor with AVX-512. A run that was stopped goes on with `--first`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from compile import COMMON, NATIVE, compile_library

#: What the program is made of: the library without its operators, and the test.
FILES: Final = (*(name for name in COMMON if not name.startswith("onnx_")), "tests/random_shapes")
EMULATED: Final = ("-include", str(NATIVE / "tests" / "emulated_tiles.h"))
SANITIZERS: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
#: Cases that one process computes, and reports in a line.
PART: Final = 5000


def build(folder: Path, extra: Sequence[str] = SANITIZERS) -> Path:
    """Compile the program into a folder."""
    program = folder / "random_shapes"
    compile_library(program, extra=(*EMULATED, *extra), files=FILES)
    return program


def run_part(program: Path, cases: range, seed: int) -> bool:
    """Run some cases of a seed, print what came of them, and say whether all is well."""
    command = [program, str(len(cases)), str(seed), str(cases.start)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(f"Seed {seed}, from case {cases.start}: {done.stdout.strip()}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the case to begin with")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    arguments = parser.parse_args()
    last = arguments.first + arguments.cases
    parts = [range(start, min(last, start + PART)) for start in range(arguments.first, last, PART)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        program = build(Path(folder))
        return 0 if all(list(pool.map(lambda part: run_part(program, part, arguments.seed), parts))) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""``make bench-kernels``: the kernels of ``llmasos-kernels-cpu`` alone, against what the memory allows.

For each format, shape and instruction set: GB/s of packed weights read and GFLOP/s, the fastest of some runs. "of the limit": the share
of the bandwidth at which the same threads only read a memory that no cache holds, measured just before. The matrices of a shape are many
copies, together larger than the caches, as the layers of a model are.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.packing import PackedMatrix
from llmasos_kernels_cpu.shape import Shape

#: Format -> how it is packed.
FORMATS: Final[dict[str, dict[str, Any]]] = {
    "Q4_0": {"bits": 4, "unit": 32, "group": 1, "zero": "fixed", "scale": "half"},
    "Q4_1": {"bits": 4, "unit": 32, "group": 1, "zero": "minimum", "scale": "half"},
    "Q8_0": {"bits": 8, "unit": 32, "group": 1, "zero": "fixed", "scale": "half"},
    "Q4_K": {"bits": 4, "unit": 32, "group": 1, "zero": "minimum", "scale": "two_level", "super": 8},
    "Q6_K": {"bits": 6, "unit": 16, "group": 1, "zero": "fixed", "scale": "two_level", "super": 16},
    "int4 by 128": {"bits": 4, "unit": 32, "group": 4, "zero": "stored", "scale": "half"},
    "int8 by row": {"bits": 8, "unit": 32, "group": 1 << 20, "zero": "fixed", "scale": "single"},
}
#: Rows and columns: linear layers of SmolLM2-135M, and of a model of 7 billion weights.
SHAPES: Final = ((960, 576), (3072, 576), (576, 1536), (4096, 4096))
#: Bytes that no cache holds.
_LARGE: Final = 192 << 20


def fastest(run: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def bandwidth(threads: int, times: int) -> float:
    """Bytes a second that the threads read."""
    memory = np.ones(_LARGE // 8, dtype=np.uint64)
    return memory.nbytes / fastest(lambda: library.read(memory, threads), times)


def measure(shape: Shape, name: str, batch: int, threads: int, times: int, large: int) -> tuple[float, float]:
    """Bytes and operations a second of one product after another, of copies of the matrix that take ``large`` bytes."""
    one = np.full((shape.panels, shape.panel_bytes), 17, dtype=np.uint8)
    copies = [PackedMatrix(shape, one.copy()) for _ in range(max(1, large // one.nbytes))]
    x = np.random.default_rng(0).normal(size=(batch, shape.columns)).astype(np.float32)

    def run() -> None:
        for matrix in copies:
            library.multiply(matrix, x, name=name, threads=threads)

    seconds = fastest(run, times) / len(copies)
    return one.nbytes / seconds, 2 * batch * shape.rows * shape.columns / seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="make bench-kernels ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = [name for name in library.names() if library.runs(name)]
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS), metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--sets", nargs="*", default=here[:-1] or here, choices=here, help="instruction sets; by default all but plain C++")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32, 128])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=_LARGE >> 20, help="of the copies of a matrix")
    given = parser.parse_args(arguments)
    for threads in given.threads:
        limit = bandwidth(threads, given.times)
        print(f"\n{threads} threads read {limit / 1e9:.1f} GB/s.\n")
        print("| format | rows x columns | instructions | batch | GB/s | of the limit | GFLOP/s |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for form, (rows, columns), name, batch in itertools.product(given.formats, SHAPES, given.sets, given.batches):
            shape = Shape(rows=rows, columns=columns, **FORMATS[form])
            read, computed = measure(shape, name, batch, threads, given.times, given.megabytes << 20)
            figures = f"{read / 1e9:.1f} | {read / limit:.0%} | {computed / 1e9:.0f}"
            print(f"| {form} | {rows} x {columns} | {name} | {batch} | {figures} |", flush=True)


if __name__ == "__main__":
    main()

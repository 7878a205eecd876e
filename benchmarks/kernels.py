"""``make bench-kernels``: the kernels of ``llmasos-kernels-cpu`` alone, against what the machine allows.

A table for each number of rows of activations, in Markdown: for each format, shape, form of activations and instruction set the GB/s of
packed weights read and the GFLOP/s computed, the fastest of some runs, each with its share of a limit. The limits are measured just before,
on the same threads: the bandwidth at which they only read a memory that no cache holds, and the rate of a large product of int8 or of
bfloat16 by torch, without any scales. The matrices of a shape are many copies, together larger than the caches, as the layers of a model
are.

It takes about three minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np

from benchmarks.limits import product_rate
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.packing import PackedMatrix
from llmasos_kernels_cpu.shape import PRECISIONS, Precision, Shape

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


@attrs.frozen
class Limits:
    """What some threads of the machine do at most: bytes read a second, and operations a second by the form of activations."""

    threads: int
    bandwidth: float
    operations: dict[Precision, float]

    @classmethod
    def measure(cls, threads: int, times: int) -> Limits:
        memory = np.ones(_LARGE // 8, dtype=np.uint64)
        bandwidth = memory.nbytes / min(_seconds(lambda: library.read(memory, threads)) for _ in range(times))
        return cls(threads, bandwidth, {"int8": product_rate("int8", threads), "bf16": product_rate("bfloat16", threads)})

    @property
    def sentence(self) -> str:
        return (
            f"{self.threads} threads read {self.bandwidth / 1e9:.1f} GB/s, and multiply {self.operations['int8'] / 1e9:.0f} GOP/s in int8 "
            f"and {self.operations['bf16'] / 1e9:.0f} GFLOP/s in bfloat16."
        )


@attrs.frozen
class Kernels:
    """The matrices of one shape, one after another."""

    copies: Sequence[PackedMatrix]
    seconds: float

    @classmethod
    def of(cls, shape: Shape, large: int, seconds: float) -> Kernels:
        """Of copies that take ``large`` bytes; each measurement takes about as many ``seconds``."""
        one = np.full((shape.panels, shape.panel_bytes), 17, dtype=np.uint8)
        return cls([PackedMatrix(shape, one.copy()) for _ in range(max(1, large // one.nbytes))], seconds)

    def time(self, batch: int, name: str, precision: Precision, threads: int) -> float:
        """Seconds of a product: of several runs over some copies, all of them if there is time, that of the fastest."""
        x = np.random.default_rng(0).normal(size=(batch, self.copies[0].shape.columns)).astype(np.float32)
        out = np.empty((batch, self.copies[0].shape.rows), np.float32)
        made = [library.Product(matrix, precision=precision, name=name, threads=threads) for matrix in self.copies]
        products = itertools.cycle([functools.partial(product, batch, x.ctypes.data, out.ctypes.data) for product in made])
        next(products)()
        count = min(len(self.copies), max(1, int(self.seconds / 4 / _seconds(next(products)))))
        end, found = time.perf_counter() + self.seconds, [_seconds(lambda: _call(products, count))]
        while time.perf_counter() < end:
            found.append(_seconds(lambda: _call(products, count)))
        return min(found) / count


def figures(kernels: Kernels, batch: int, name: str, precision: Precision, limits: Limits) -> str:
    """GB/s and GFLOP/s of a product with ``batch`` rows of activations, with their shares of the limits, as a cell of a table."""
    seconds, matrix = kernels.time(batch, name, precision, limits.threads), kernels.copies[0]
    read, computed = matrix.data.nbytes / seconds, 2 * batch * matrix.shape.rows * matrix.shape.columns / seconds
    return f"{read / 1e9:.1f} ({read / limits.bandwidth:.0%}), {computed / 1e9:.0f} ({computed / limits.operations[precision]:.0%})"


def ways(names: Sequence[str], precisions: Sequence[Precision]) -> list[tuple[Precision, str]]:
    """Forms of activations with the instruction sets that compute them in a way of their own."""
    same = "avx512bf16" if "avx512" in names else None  # the two differ in products of bfloat16 alone
    return [(precision, name) for precision in precisions for name in names if precision == "bf16" or name != same]


def _call(products: itertools.cycle[Callable[[], object]], count: int) -> None:
    for product in itertools.islice(products, count):
        product()


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="make bench-kernels ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = [name for name in library.names() if library.runs(name)]
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS), metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--sets", nargs="*", default=here[:-1] or here, choices=here, help="instruction sets; by default all but plain C++")
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS, help="forms of activations")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 128], help="rows of activations")
    parser.add_argument("--threads", type=int, nargs="*", default=[os.cpu_count() or 1])
    parser.add_argument("--times", type=int, default=5, help="how often the bandwidth is measured")
    parser.add_argument("--seconds", type=float, default=0.25, help="of each measurement")
    parser.add_argument("--megabytes", type=int, default=_LARGE >> 20, help="of the copies of a matrix")
    given = parser.parse_args(arguments)
    columns = ways(given.sets, given.precisions)
    for threads in given.threads:
        limits = Limits.measure(threads, given.times)
        print(f"\n{limits.sentence} GB/s and GFLOP/s, with their shares of these:")
        tables: dict[int, list[str]] = {batch: [] for batch in given.batches}
        for form, (rows, width) in itertools.product(given.formats, SHAPES):
            kernels = Kernels.of(Shape(rows=rows, columns=width, **FORMATS[form]), given.megabytes << 20, given.seconds)
            for batch, lines in tables.items():
                cells = [figures(kernels, batch, name, precision, limits) for precision, name in columns]
                lines.append(f"| {form} | {rows} x {width} | {' | '.join(cells)} |")
        for batch, lines in tables.items():
            heads = [f"{batch} rows" if batch > 1 else "1 row", "rows x columns", *(f"{precision}, {name}" for precision, name in columns)]
            print("", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()

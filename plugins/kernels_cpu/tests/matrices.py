"""Random quantised matrices of every published form, packed and as products in plain numpy; and the instruction sets to compare."""

from __future__ import annotations

from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.packing import PackedMatrix, pack
from llmasos_kernels_cpu.shape import PRECISIONS, Precision, Shape

Floats = npt.NDArray[np.float32]

#: The instruction sets of this processor.
SETS: Final = [name for name in library.names() if library.runs(name)]


@attrs.frozen
class Form:
    """How a format stores weights: bits of a code, columns that share a scale (0: all), what zeros are, and how scales are stored."""

    bits: int
    group: int
    zeros: str = "symmetric"
    scales: str = "half"

    def tensor(self, rows: int, columns: int, random: np.random.Generator) -> QuantizedTensor:
        group = self.group or columns
        groups = -(-columns // group)
        return QuantizedTensor(
            codes=random.integers(0, 1 << self.bits, (rows, columns), dtype=np.uint8),
            scales=self._factors(rows, groups, random),
            bits=self.bits,
            group=group,
            zeros=random.integers(0, 1 << self.bits, (rows, groups), dtype=np.uint8) if self.zeros == "stored" else None,
            minimums=-self._factors(rows, groups, random) if self.zeros == "minimums" else None,
        )

    def _factors(self, rows: int, groups: int, random: np.random.Generator) -> Floats:
        found = random.uniform(0.5, 2, (rows, groups)).astype(np.float32)
        if self.scales == "half":
            return found.astype(np.float16).astype(np.float32)
        if self.scales == "two_level":  # 256 columns share a float16, each group has an integer
            count = 256 // self.group
            upper = random.uniform(0.01, 0.02, (rows, -(-groups // count))).astype(np.float16).astype(np.float32)
            lower = random.integers(1, 64, (rows, groups)).astype(np.float32)
            lower[:, ::count] = 63
            return np.asarray(np.repeat(upper, count, axis=1)[:, :groups] * lower)
        return found


#: What rows of activations may be rounded to, with each instruction set.
WAYS: Final[list[tuple[str, Precision]]] = [(name, precision) for name in SETS for precision in PRECISIONS]


def alike(precision: Precision) -> list[str]:
    """The instruction sets that give the same bits: AMX adds products of bfloat16 in an order of its own."""
    return [name for name in SETS if precision == "int8" or name != "amx"]


#: The formats of GGUF, and of compressed-tensors by group and by row.
FORMS: Final[dict[str, Form]] = {
    "q4_0": Form(4, 32),
    "q4_1": Form(4, 32, "minimums"),
    "q5_0": Form(5, 32),
    "q5_1": Form(5, 32, "minimums"),
    "q8_0": Form(8, 32),
    "q2_k": Form(2, 16, "minimums", "two_level"),
    "q3_k": Form(3, 16, scales="two_level"),
    "q4_k": Form(4, 32, "minimums", "two_level"),
    "q5_k": Form(5, 32, "minimums", "two_level"),
    "q6_k": Form(6, 16, scales="two_level"),
    "int4, groups of 128": Form(4, 128, scales="single"),
    "int4, groups of 128 with zeros": Form(4, 128, "stored", "single"),
    "int8, groups of 64 with zeros": Form(8, 64, "stored", "single"),
    "int8 by row": Form(8, 0, scales="single"),
    "int4 by row": Form(4, 0),
}


def packed(*tensors: QuantizedTensor) -> PackedMatrix:
    found = pack(tensors)
    assert found is not None
    return found


def largest_shift(tensor: QuantizedTensor) -> float:
    """The largest magnitude of what is added to a code times its scale, by groups."""
    if tensor.minimums is not None:
        return float(np.abs(tensor.minimums).max())
    return 0.0 if tensor.zeros is None else float(np.abs(tensor.scales * tensor.zeros).max())


def rounded_to_bf16(x: Floats) -> Floats:
    """To the nearest number with seven bits of fraction, and to the even one of two; below 2 ** -100 to zero."""
    bits = x.view(np.uint32)
    halves = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.abs(x) < 2.0**-100, np.float32(0), (halves << 16).view(np.float32))


def rounded(x: Floats, unit: int) -> Floats:
    """Activations as the library rounds them: to 255 codes for each unit of columns."""
    rows, columns = x.shape
    units = np.pad(x, ((0, 0), (0, -columns % unit))).reshape(rows, -1, unit)
    most = np.abs(units).max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(units * (np.float32(127) / most))
    values = np.where(most < 1e-30, np.float32(0), codes * (most / np.float32(127)))
    return np.ascontiguousarray(values.reshape(rows, -1)[:, :columns], dtype=np.float32)


def product(tensor: QuantizedTensor, shape: Shape, x: Floats) -> npt.NDArray[np.float64]:
    """The product with the rounded activations, in float64."""
    return np.asarray(rounded(x, shape.unit).astype(np.float64) @ tensor.dequantize().astype(np.float64).T)


def whole(random: np.random.Generator, *shape: Any) -> Floats:
    """Activations that are integers up to 127, which rounding leaves as they are: every unit of 16 has a 127."""
    found = random.integers(-127, 128, shape).astype(np.float32)
    found[:, ::16] = 127
    return found

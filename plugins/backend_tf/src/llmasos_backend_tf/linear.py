"""Weight matrices: float32, or int8 codes with a scale for every 32 columns.

A matrix is split into shares that are multiplied in parallel: two products on one thread each are faster than one product on two threads.
The matrix products of a step of SmolLM2-135M in float32 on two cores take 18 ms at one row, 37 at eight and 50 at 32; whole matrices take
28, 46 and 60.

XLA compiles the products of int8 codes. For few rows it dequantises inside the product's loop, which reads one byte a weight and writes no
float matrix. For more rows it dequantises the matrix first, in half the time of TensorFlow's own operations. A step takes 25 ms at one row
and 98 at eight (float32: 26 and 56).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import tensorflow as tf

from llmasos_backend_tf.rounding import int8_codes
from llmasos_decoder_kit.cpu_kernels import CpuKernels, CpuLinear, Floats
from llmasos_decoder_kit.cpu_layers import stacked
from llmasos_decoder_kit.weights import StoredRows
from llmasos_hookspecs import Tensor, as_float32

#: Smallest share, in columns; the overhead of an operation outweighs smaller ones.
_NARROW: Final = 64

#: Most rows for the fused loop over codes; for more rows it is faster to dequantise the matrix once.
FEW_ROWS: Final = 4


@attrs.frozen(eq=False)
class FloatMatrix:
    """float32 [in, out], multiplied from the right; ``shares`` are columns of it."""

    shares: Sequence[Any]

    @classmethod
    def of(cls, parts: Sequence[Tensor], count: int, unit: int = 1) -> FloatMatrix:
        """The parts [out, in] stacked along ``out`` and cut into about ``count`` shares, each of whole units of ``out``."""
        stacked = np.concatenate([as_float32(part) for part in parts])
        return cls([tf.constant(np.ascontiguousarray(stacked[cut].T)) for cut in _cuts(len(stacked), count, unit)])

    @property
    def nbytes(self) -> int:
        return sum(int(np.prod(share.shape)) * 4 for share in self.shares)

    @property
    def widths(self) -> list[int]:
        """Columns of each share."""
        return [share.shape[1] for share in self.shares]

    def products(self, x: Any, few: int | None) -> list[Any]:
        """x float32 [rows, in] -> [rows, out of the share], for each share."""
        return [tf.matmul(x, share) for share in self.shares]


@attrs.frozen(eq=False)
class CodeMatrix:
    """int8 codes [out, in] with scales float32 [out, groups]; ``shares`` are rows of both."""

    shares: Sequence[tuple[Any, Any]]

    @classmethod
    def of(cls, parts: Sequence[Tensor], count: int, unit: int = 1) -> CodeMatrix:
        """As ``FloatMatrix.of``; symmetric 8-bit codes in equal groups are kept unchanged."""
        pairs = [int8_codes(part) for part in parts]
        groups = max(scales.shape[1] for _, scales in pairs)
        codes = np.concatenate([codes for codes, _ in pairs])
        scales = np.concatenate([np.repeat(s, groups // s.shape[1], axis=1) for _, s in pairs])
        return cls([(tf.constant(codes[cut]), tf.constant(scales[cut])) for cut in _cuts(len(codes), count, unit)])

    @property
    def nbytes(self) -> int:
        return sum(int(np.prod(codes.shape)) + 4 * int(np.prod(scales.shape)) for codes, scales in self.shares)

    @property
    def widths(self) -> list[int]:
        """Rows of each share."""
        return [codes.shape[0] for codes, _ in self.shares]

    def products(self, x: Any, few: int | None) -> list[Any]:
        """x float32 [rows, in] -> [rows, out of the share], for each share; ``few`` is the number of rows where it is known and small."""
        if few is not None:
            return [_fused_products(x, codes, scales) for codes, scales in self.shares]
        return [tf.matmul(x, _dequantized(codes, scales), transpose_b=True) for codes, scales in self.shares]

    def rows(self, index: Any) -> Any:
        """Rows float32 [..., in] of the matrix, for an embedding."""
        found, start = 0.0, 0
        for codes, scales in self.shares:
            held = (index >= start) & (index < start + codes.shape[0])
            local = tf.where(held, index - start, 0)
            found += tf.where(held[..., None], _dequantize(tf.gather(codes, local), tf.gather(scales, local)), 0.0)
            start += codes.shape[0]
        return found


@attrs.frozen(eq=False)
class KernelMatrix:
    """A matrix that installed kernels multiply, called out of the graph on all their threads: one share."""

    linear: CpuLinear
    rows: int

    @property
    def nbytes(self) -> int:
        return self.linear.nbytes

    @property
    def widths(self) -> list[int]:
        return [self.rows]

    def products(self, x: Any, few: int | None) -> list[Any]:
        """x float32 [rows, in] -> [rows, out]."""
        out = tf.numpy_function(self._product, [x], tf.float32, stateful=False)
        out.set_shape((None, self.rows))
        return [out]

    def _product(self, x: Floats) -> Floats:
        x = np.ascontiguousarray(x)
        out = np.empty((len(x), self.rows), np.float32)
        self.linear(len(x), x.ctypes.data, out.ctypes.data)
        return out


@attrs.frozen(eq=False)
class KernelMatrices:
    """Makes the matrices that installed kernels take, and ``CodeMatrix`` of the others."""

    kernels: CpuKernels
    threads: int

    def of(self, parts: Sequence[Tensor], count: int, unit: int = 1) -> KernelMatrix | CodeMatrix:
        """As ``CodeMatrix.of``. A matrix has one share in either form, so that all layers have as many."""
        linear = stacked(self.kernels, parts, threads=self.threads)
        return CodeMatrix.of(parts, 1, unit) if linear is None else KernelMatrix(linear, sum(part.shape[0] for part in parts))


Matrix = FloatMatrix | CodeMatrix | KernelMatrix
#: What makes the matrices of a decoder.
Kind = type[FloatMatrix] | type[CodeMatrix] | KernelMatrices


@attrs.frozen(eq=False)
class EmbeddingRows:
    """The embedding as it is stored, read out of the graph."""

    table: StoredRows

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def rows(self, index: Any) -> Any:
        """As ``CodeMatrix.rows``, for ``index`` [R]."""
        found = tf.numpy_function(self.table, [index], tf.float32, stateful=False)
        found.set_shape((None, self.table.columns))
        return found


def _cuts(size: int, count: int, unit: int) -> list[slice]:
    """About ``count`` equal slices of ``size``, none of them narrow, at multiples of ``unit`` (which divides ``size``)."""
    count = max(1, min(count, size // max(unit, _NARROW)))
    bounds = [round(size // unit * i / count) * unit for i in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def _dequantize(codes: Any, scales: Any) -> Any:
    shape = tf.shape(codes)
    groups = scales.shape[-1]
    blocks = tf.reshape(tf.cast(codes, tf.float32), tf.concat([shape[:-1], [groups, codes.shape[-1] // groups]], 0))
    return tf.reshape(blocks * scales[..., None], shape)


#: The same compiled by XLA, for whole matrices.
_dequantized = tf.function(_dequantize, jit_compile=True, reduce_retracing=False)


@tf.function(jit_compile=True, reduce_retracing=False)
def _fused_products(x: Any, codes: Any, scales: Any) -> Any:
    matrix = _dequantized(codes, scales)
    return tf.stack([tf.linalg.matvec(matrix, row) for row in tf.unstack(x)])

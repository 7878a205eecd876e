"""Matrices on the device: float32, or 8-bit codes with a scale for every 32 columns.

Codes are computed by XLA. In ms a step of SmolLM2-135M's layers on two cores: in the loop of the product, which reads a byte an element and
writes no float matrix, 16 at one row and 46 at four (float32: 40 and 50); at eight the matrix is written out first, 63, where TensorFlow's
own operations take 120 (float32: 52).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_hookspecs import QuantizedTensor, Tensor, as_float32

#: Columns that share a scale, where the checkpoint does not say.
GROUP = 32

#: Rows up to which codes are multiplied row by row in one fused loop; more are worth writing the float matrix out once.
FEW_ROWS: Final = 4


@attrs.frozen(eq=False)
class FloatMatrix:
    """float32 [in, out], multiplied from the right."""

    weight: Any

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> FloatMatrix:
        """The parts [out, in] stacked along ``out``."""
        return cls(tf.constant(np.ascontiguousarray(np.concatenate([as_float32(part) for part in parts]).T)))

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.weight.shape)) * 4

    def multiply(self, x: Any, few: int | None) -> Any:
        """x float32 [rows, in] -> [rows, out]."""
        return tf.matmul(x, self.weight)


@attrs.frozen(eq=False)
class CodeMatrix:
    """int8 codes [out, in] with scales float32 [out, groups]."""

    codes: Any
    scales: Any

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> CodeMatrix:
        """The parts [out, in] stacked along ``out``; symmetric 8-bit codes in equal groups are kept to the bit."""
        pairs = [quantize(part) for part in parts]
        groups = max(scales.shape[1] for _, scales in pairs)
        scales = [np.repeat(s, groups // s.shape[1], axis=1) for _, s in pairs]
        return cls(tf.constant(np.concatenate([codes for codes, _ in pairs])), tf.constant(np.concatenate(scales)))

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.codes.shape)) + 4 * int(np.prod(self.scales.shape))

    def multiply(self, x: Any, few: int | None) -> Any:
        """x float32 [rows, in] -> [rows, out]; ``few`` is the number of rows where it is known and small."""
        if few is not None:
            return _fused_products(x, self.codes, self.scales)
        return tf.matmul(x, _dequantized(self.codes, self.scales), transpose_b=True)

    def rows(self, index: Any) -> Any:
        """Rows float32 [..., in] of the matrix, for an embedding."""
        return _dequantize(tf.gather(self.codes, index), tf.gather(self.scales, index))


def quantize(tensor: Tensor) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes int8 [out, in] and scales [out, groups]: those of a symmetric 8-bit tensor, else rounded to nearest."""
    rows, columns = tensor.shape
    if isinstance(tensor, QuantizedTensor) and tensor.bits == 8 and tensor.symmetric and columns % tensor.group == 0:
        return (tensor.codes.astype(np.int16) - 128).astype(np.int8), np.ascontiguousarray(tensor.scales)
    group = GROUP if columns % GROUP == 0 else columns
    blocks = as_float32(tensor).reshape(rows, columns // group, group)
    scales = np.maximum(np.abs(blocks).max(-1) / np.float32(127), np.float32(1e-12))
    codes = np.clip(np.rint(blocks / scales[..., None]), -127, 127).astype(np.int8)
    return codes.reshape(rows, columns), scales


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

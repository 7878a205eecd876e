"""Weights as the graph holds them: floats in the precision they are computed in, or the stored codes, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeGuard

import attrs
import ml_dtypes
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor, Tensor, as_float32

#: Numpy's type of what is computed in a precision; OpenVINO's name of it is the key.
FLOAT_TYPES: Final[dict[str, Any]] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


#: The largest code of 8 bits.
_TOP: Final = 255
#: How far a whole zero may shift a group, in steps of 8 bits over the group and zero.
_SHIFT: Final = 0.25


@attrs.frozen(eq=False)
class FloatMatrix:
    """[rows, columns] in one of ``FLOAT_TYPES``."""

    values: npt.NDArray[Any]

    @property
    def form(self) -> tuple[Any, ...]:
        """What matrices must share to be stacked."""
        return ("float", self.values.dtype)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


@attrs.frozen(eq=False)
class CodeMatrix:
    """``scale * (code - zero)`` for each group of columns.

    Attributes:
        codes: uint8 [rows, columns], each below ``2 ** bits``.
        scales: float32 [rows, groups].
        zeros: float32 or uint8 [rows, groups]; OpenVINO multiplies by activations of 8 bits where they are uint8.
        bits: 4 or 8, what a code takes in memory.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    bits: int

    @property
    def form(self) -> tuple[Any, ...]:
        """What matrices must share to be stacked."""
        return ("codes", self.bits, self.codes.shape[1] // self.scales.shape[1], self.zeros.dtype)

    @property
    def nbytes(self) -> int:
        return -(-self.codes.size * self.bits // 8) + self.scales.nbytes + self.zeros.nbytes


Matrix = FloatMatrix | CodeMatrix


def in_codes(tensor: Tensor) -> TypeGuard[QuantizedTensor]:
    """Whether a stored tensor is kept in codes: its groups must divide its columns, which is all that OpenVINO holds."""
    return isinstance(tensor, QuantizedTensor) and tensor.shape[1] % tensor.group == 0


def code_bits(tensor: QuantizedTensor) -> int:
    """What a code takes in memory."""
    return 4 if tensor.bits <= 4 else 8


def matrix_of(tensor: Tensor, precision: str) -> Matrix:
    """A stored tensor; what is not kept in codes becomes floats."""
    if not in_codes(tensor):
        return FloatMatrix(np.ascontiguousarray(as_float32(tensor).astype(FLOAT_TYPES[precision], copy=False)))
    bits = code_bits(tensor)
    codes, scales = tensor.codes, tensor.scales.astype(np.float32, copy=False)
    if tensor.minimums is not None:
        return _with_minimums(codes, scales, tensor.minimums.astype(np.float32, copy=False), bits)
    middle = np.float32(2 ** (tensor.bits - 1))
    zeros = np.full(scales.shape, middle) if tensor.zeros is None else tensor.zeros.astype(np.float32)
    return CodeMatrix(codes, scales, zeros, bits)


def with_whole_zeros(matrix: Matrix) -> Matrix:
    """A matrix of codes in 8 bits with zeros of 8 bits; exact where the zeros are whole already.

    Codes of fewer bits have room: all of a group are multiplied by the number for which the zero comes closest to a whole one. The
    root mean square of the errors is then a third of what Q8_0 has, for SmolLM2 in Q4_1.
    """
    if isinstance(matrix, FloatMatrix) or matrix.zeros.dtype == np.uint8:
        return matrix
    zeros = matrix.zeros.astype(np.float64)
    stored = matrix.codes.reshape(*zeros.shape, -1)
    most = int(stored.max(initial=1))
    factors, wholes, errors = np.ones(zeros.shape), np.zeros(zeros.shape), np.full(zeros.shape, np.inf)
    for factor in range(1, _TOP // most + 1):
        whole = np.rint(zeros * factor)
        error = np.abs(whole - zeros * factor) / factor
        better = (error < errors) & (whole <= _TOP) & (factor * most - whole <= _TOP)
        factors[better], wholes[better], errors[better] = factor, whole[better], error[better]
    added = np.maximum(0, -wholes)  # to codes and zeros, where all of a group lies above zero
    codes = stored * factors[:, :, None] + added[:, :, None]
    scales = matrix.scales / factors
    least = np.minimum(stored.min(axis=2) - zeros, 0)
    step = (np.maximum(stored.max(axis=2) - zeros, 0) - least) / _TOP
    # Where a whole zero would shift a group further, each value is rounded by itself: a shift adds up in a product.
    far = errors > _SHIFT * step
    if far.any():
        wholes[far], scales[far] = np.rint(-least[far] / step[far]), (matrix.scales * step)[far]
        codes[far] = np.clip(np.rint((stored[far] - zeros[far][:, None]) / step[far][:, None]) + wholes[far][:, None], 0, _TOP)
        added[far] = 0
    return CodeMatrix(
        codes=codes.reshape(matrix.codes.shape).astype(np.uint8),
        scales=scales.astype(np.float32),
        zeros=(wholes + added).astype(np.uint8),
        bits=8,
    )


def stacked(matrices: Sequence[Matrix]) -> list[Matrix]:
    """The same rows in as few matrices as their forms allow, in order."""
    found: list[Matrix] = []
    for matrix in matrices:
        if not found or found[-1].form != matrix.form:
            found.append(matrix)
        elif isinstance(matrix, FloatMatrix):
            found[-1] = FloatMatrix(np.concatenate([found[-1].values, matrix.values]))  # type: ignore[union-attr]  # the forms are equal
        else:
            found[-1] = _joined(found[-1], matrix)
    return found


def _joined(one: Any, two: CodeMatrix) -> CodeMatrix:
    return CodeMatrix(
        codes=np.concatenate([one.codes, two.codes]),
        scales=np.concatenate([one.scales, two.scales]),
        zeros=np.concatenate([one.zeros, two.zeros]),
        bits=two.bits,
    )


def _with_minimums(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], minimums: npt.NDArray[np.float32], bits: int
) -> CodeMatrix:
    """``scale * code + minimum`` as ``scale * (code - zero)``, whose zero is a float. A group of one value has the scale 0 and no zero
    could give it: its codes become 0 and its scale 1."""
    flat = scales == 0
    if flat.any():
        codes = np.where(np.repeat(flat, codes.shape[1] // scales.shape[1], axis=1), np.uint8(0), codes)
        scales = np.where(flat, np.float32(1), scales)
    return CodeMatrix(codes, scales, -minimums / scales, bits)

"""Matrices as constants of an OpenVINO graph, and what multiplies by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.matrices import CodeMatrix, FloatMatrix, Matrix
from llmasos_backend_openvino.runtime import ops, ov


class Constants:
    """Makes constants over numpy arrays, which it keeps: OpenVINO reads their memory for as long as the graph lives."""

    def __init__(self) -> None:
        self._kept: list[npt.NDArray[Any]] = []
        #: Bytes of all constants made.
        self.nbytes = 0

    def vector(self, values: npt.NDArray[Any]) -> Any:
        """A float32 constant."""
        return self._constant(np.ascontiguousarray(values, np.float32), ov.Type.f32, values.shape)

    def matrix(self, matrix: Matrix) -> Any:
        """Float32 [rows, columns], which OpenVINO reads out of the codes while it multiplies."""
        if isinstance(matrix, FloatMatrix):
            return _as_float32(self._floats(matrix))
        rows, columns = matrix.codes.shape
        codes, scales, zeros = self._codes(matrix, matrix.bits)
        values = _decoded(codes, scales, zeros)
        return ops.reshape(values, np.array([rows, columns], np.int64), special_zero=False)

    def embedding(self, matrix: Matrix, *, head: bool) -> tuple[Any, Any]:
        """A lookup table, as a function of the rows' indices [n] to float32 [n, columns], and the same matrix for ``product`` where it is
        the ``head`` as well."""
        if isinstance(matrix, FloatMatrix):
            values = self._floats(matrix)
            return (lambda index: _as_float32(ops.gather(values, index, _axis(0)))), _as_float32(values) if head else None
        rows, columns = matrix.codes.shape
        # Single bytes, since no operation gathers half ones.
        codes, scales, zeros = self._codes(matrix, 8)

        def rows_at(index: Any) -> Any:
            found = _decoded(*(ops.gather(part, index, _axis(0)) for part in (codes, scales, zeros)))
            return ops.reshape(found, np.array([-1, columns], np.int64), special_zero=False)

        if not head:
            return rows_at, None
        if matrix.bits != 8:
            return rows_at, self.matrix(matrix)
        return rows_at, ops.reshape(_decoded(codes, scales, zeros), np.array([rows, columns], np.int64), special_zero=False)

    def _floats(self, matrix: FloatMatrix) -> Any:
        values = matrix.values
        if values.dtype == np.float32:
            return self._constant(values, ov.Type.f32, values.shape)
        kind = ov.Type.f16 if values.dtype == np.float16 else ov.Type.bf16
        return self._constant(values.view(np.uint16), kind, values.shape)

    def _codes(self, matrix: CodeMatrix, bits: int) -> tuple[Any, Any, Any]:
        """Codes [rows, groups, columns of a group] in so many bits, scales and zeros [rows, groups, 1]."""
        rows, groups = matrix.scales.shape
        shape = (rows, groups, matrix.codes.shape[1] // groups)
        if bits == 4:
            codes = self._constant(_packed(matrix.codes), ov.Type.u4, shape)
        else:
            codes = self._constant(np.ascontiguousarray(matrix.codes), ov.Type.u8, shape)
        scales, zeros = self.vector(matrix.scales[:, :, None]), matrix.zeros[:, :, None]
        if zeros.dtype == np.uint8:
            return codes, scales, self._constant(np.ascontiguousarray(zeros), ov.Type.u8, zeros.shape)
        return codes, scales, self.vector(zeros)

    def _constant(self, array: npt.NDArray[Any], kind: Any, shape: Sequence[int]) -> Any:
        self._kept.append(array)
        self.nbytes += array.nbytes
        return ov.op.Constant(ov.Tensor(array, ov.Shape(list(shape)), kind), shared_memory=True)


def product(x: Any, matrix: Any) -> Any:
    """x [n, columns] times the transpose of a matrix [rows, columns]."""
    return ops.matmul(x, matrix, False, True)


def _as_float32(x: Any) -> Any:
    return x if x.get_element_type() == ov.Type.f32 else ops.convert(x, np.float32)


def _decoded(codes: Any, scales: Any, zeros: Any) -> Any:
    return ops.multiply(ops.subtract(ops.convert(codes, np.float32), _as_float32(zeros)), scales)


def _packed(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Two codes a byte, the first in its low half."""
    flat = codes.reshape(-1)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << np.uint8(4))


def _axis(axis: int) -> Any:
    return ops.constant(np.int32(axis))

"""GPTQ: round one column at a time and let the columns after it make up for the error (Frantar et al., 2023)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_accel_quant.grid import Floats, Grid
from llmasos_hookspecs import QuantizedTensor

#: Columns whose corrections to the rest are applied in one matrix product.
BLOCK: Final = 128


def gptq(weight: Floats, hessian: Floats, *, bits: int, group: int, symmetric: bool, damping: float) -> QuantizedTensor:
    """Quantise a matrix for inputs with the second moments ``hessian``.

    Columns are taken in the order of falling second moment ("act-order"), so that the ones that matter most are rounded while
    the most others can still make up for them. The grid is found beforehand, from neighbouring columns, so the stored layout
    needs no permutation.

    Args:
        weight: float32 [rows, columns].
        hessian: float32 [columns, columns], the mean over tokens of ``x x^T``.
        damping: added to the diagonal, as a share of its mean.
    """
    rows, columns = weight.shape
    moments = np.diagonal(hessian)
    grid = Grid.spanning(weight, bits=bits, group=group, symmetric=symmetric, importance=moments)
    order = np.argsort(-moments, kind="stable")
    group_of = order // group
    # Transposed, so that a column of the matrix is one contiguous row here.
    scales, zeros = grid.scales.T[group_of], grid.zeros.T[group_of]
    left = np.ascontiguousarray(weight.T[order])
    factor = _inverse_factor(hessian[np.ix_(order, order)], damping)
    codes = np.empty_like(left)
    top = np.float32(2**bits - 1)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.empty((end - start, rows), np.float32)
        for column in range(start, end):
            code = np.clip(np.rint(left[column] / scales[column]) + zeros[column], 0, top)
            error = (left[column] - (code - zeros[column]) * scales[column]) / factor[column, column]
            left[column + 1 : end] -= factor[column, column + 1 : end, None] * error
            codes[column], errors[column - start] = code, error
        left[end:] -= factor[start:end, end:].T @ errors
    unordered = np.empty_like(codes)
    unordered[order] = codes
    return grid.tensor(unordered.T)


def _inverse_factor(hessian: Floats, damping: float) -> Floats:
    """The upper Cholesky factor of the damped Hessian's inverse, float32 [columns, columns]."""
    damped: npt.NDArray[np.float64] = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal += max(damping * diagonal.mean(), 1e-8)
    inverse = np.linalg.inv(damped)
    return np.ascontiguousarray(np.linalg.cholesky(inverse).T, dtype=np.float32)

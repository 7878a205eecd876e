"""GPTQ: rounds one column at a time and updates the columns after it to compensate the error (Frantar et al., 2023)."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_accel_quant.grid import Floats, Grid
from llmasos_hookspecs import QuantizedTensor

#: Columns whose corrections to the rest are applied in one matrix product.
BLOCK: Final = 128

#: Largest relative error of a vector multiplied by the matrix and by the inverse from its factor.
_TRUSTED: Final = 0.01

#: A matrix with a larger share of exact zeros counts as masked, and its zeros are kept.
MASKED: Final = 0.05


@attrs.frozen(eq=False)
class Curvature:
    """Second-order statistics of an input, shared by all matrices with that input.

    Attributes:
        moments: float32 [columns], the mean over tokens of ``x ** 2``.
        order: columns by falling moment.
        factor: float32 [columns, columns] in that order, the upper Cholesky factor of the inverse of the damped ``x x^T``.
        damping: the damping added to the diagonal, as a share of its mean.
    """

    moments: Floats
    order: npt.NDArray[np.intp]
    factor: Floats
    damping: float

    @classmethod
    def of(cls, hessian: Floats, damping: float) -> Curvature:
        """Compute it from the mean over tokens of ``x x^T``, float32 [columns, columns]. ``damping``, as a share of the diagonal's mean, is
        added to the diagonal and multiplied by ten until the Cholesky factor can be computed."""
        moments = np.diagonal(hessian).copy()
        order = np.argsort(-moments, kind="stable")
        ordered: npt.NDArray[np.float64] = hessian[np.ix_(order, order)].astype(np.float64)
        while (factor := _factor(ordered, damping)) is None:
            damping *= 10
        return cls(moments, order, factor, damping)


def _factor(hessian: npt.NDArray[np.float64], damping: float) -> Floats | None:
    """The upper Cholesky factor of the damped inverse, float32; None if rounding makes the matrix indefinite."""
    damped = hessian.copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += max(damping * diagonal.mean(), 1e-8)
    try:
        factor = np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T, dtype=np.float32)
    except np.linalg.LinAlgError:
        return None
    # A nearly singular matrix gives a factor of huge or vanishing numbers instead of an error.
    pivots = np.diagonal(factor)
    return factor if np.isfinite(factor).all() and pivots.min() > 0 and _restores(factor, damped) else None


def _restores(factor: Floats, damped: npt.NDArray[np.float64]) -> bool:
    """Whether ``factor.T @ factor`` is the inverse of the matrix, tested on a few vectors: a full matrix product would take as long as the
    factorisation."""
    tried = np.random.default_rng(0).standard_normal((len(damped), 4))
    wide = factor.astype(np.float64)
    back = wide.T @ (wide @ (damped @ tried))
    return bool(np.linalg.norm(back - tried) <= _TRUSTED * np.linalg.norm(tried))


def gptq(weight: Floats, curvature: Curvature, *, bits: int, group: int, symmetric: bool) -> QuantizedTensor:
    """Quantise a float32 matrix [rows, columns].

    Columns are rounded in the order of falling moment ("act-order"), so that for the most important ones the most other columns can still
    compensate. The grid is computed beforehand, from adjacent columns, so the stored layout needs no permutation. Zeros of a masked
    matrix stay zeros.
    """
    rows, columns = weight.shape
    order, factor = curvature.order, curvature.factor
    grid = Grid.spanning(weight, bits=bits, group=group, symmetric=symmetric, importance=curvature.moments)
    group_of = order // group
    # Transposed, so that a column of the matrix is one contiguous row here.
    scales, zeros = grid.scales.T[group_of], grid.zeros.T[group_of]
    left = np.ascontiguousarray(weight.T[order])
    gone = left == 0 if np.mean(weight == 0) > MASKED else None
    codes = np.empty_like(left)
    top = np.float32(2**bits - 1)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.empty((end - start, rows), np.float32)
        for column in range(start, end):
            code = np.clip(np.rint(left[column] / scales[column]) + zeros[column], 0, top)
            if gone is not None:
                code = np.where(gone[column], zeros[column], code)
            error = (left[column] - (code - zeros[column]) * scales[column]) / factor[column, column]
            left[column + 1 : end] -= factor[column, column + 1 : end, None] * error
            codes[column], errors[column - start] = code, error
        left[end:] -= factor[start:end, end:].T @ errors
    unordered = np.empty_like(codes)
    unordered[order] = codes
    return grid.tensor(np.ascontiguousarray(unordered.T))

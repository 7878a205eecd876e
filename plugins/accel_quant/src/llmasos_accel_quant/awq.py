"""Activation-aware weight quantisation (AWQ, Lin et al., 2024): scales up columns with large inputs before rounding.

The inverse factors are folded into the module that computes the input (see ``calibrated``), so the float model does not change, while the
rounding error of the scaled columns becomes smaller relative to their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from llmasos_accel_quant.grid import Floats, Grid

#: Exponents tried: 0 leaves the columns alone, 1 scales them by their mean input magnitude.
EXPONENTS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def column_scales(
    weights: Sequence[Floats], hessian: Floats, magnitudes: Floats, *, bits: int, groups: Sequence[int], symmetric: bool
) -> Floats:
    """The factors, float32 [columns], by which to multiply the columns of ``weights`` (and divide their inputs).

    Factors are a power of ``magnitudes``. The exponent is the one with the smallest squared output error, ``trace(D H D^T)`` summed over
    the weights, where ``D`` is the rounding error of a weight and ``H`` the Hessian.

    Args:
        weights: float32 [rows, columns] each; matrices that share their input.
        hessian: float32 [columns, columns], the mean over tokens of ``x x^T``.
        magnitudes: float32 [columns], the mean over tokens of ``|x|``; equal for columns that must share a factor.
        groups: group size of each weight, in columns.
    """
    best = np.ones_like(magnitudes)
    least = np.inf
    floor = max(float(magnitudes.max()) * 1e-4, 1e-8)
    for exponent in EXPONENTS:
        factors = np.maximum(magnitudes, floor) ** np.float32(exponent)
        factors /= np.sqrt(factors.max() * factors.min())
        error = 0.0
        for weight, group in zip(weights, groups, strict=True):
            scaled = weight * factors
            moments = np.diagonal(hessian) / factors**2
            grid = Grid.spanning(scaled, bits=bits, group=group, symmetric=symmetric, importance=moments)
            rounding = grid.nearest(scaled).dequantize() / factors - weight
            error += float(np.einsum("ij,ij->", rounding @ hessian, rounding, dtype=np.float64))
        if error < least:
            best, least = factors, error
    return best

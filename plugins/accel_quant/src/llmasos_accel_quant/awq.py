"""Activation-aware scaling (AWQ, Lin et al., 2024): enlarge the columns that matter before rounding, and undo it before them."""

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
    """The factors, float32 [columns], by which the columns of ``weights`` are best multiplied (and their inputs divided).

    The best exponent has the least squared output error, ``trace(D H D^T)`` summed over the weights, of which ``D`` is the
    rounding error.

    Args:
        weights: float32 [rows, columns] each; matrices that share their input.
        hessian: float32 [columns, columns], the mean over tokens of ``x x^T``.
        magnitudes: float32 [columns], the mean over tokens of ``|x|``; where several columns must share a factor, they share this.
        groups: columns a group, for each weight.
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

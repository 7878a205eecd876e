"""Quantisation grids: scales, zero points, and rounding to the nearest code."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor

Floats = npt.NDArray[np.float32]

#: Shares of a group's full range that a scale search tries: a narrower grid clips a few large weights and rounds the others more finely.
SHRINKS: Final = tuple(np.linspace(1.0, 0.6, 9, dtype=np.float32))


@attrs.frozen(eq=False)
class Grid:
    """The representable values of each group of a matrix: ``scale * (code - zero)``.

    Attributes:
        scales: float32 [rows, groups], each exact in float16 so that kernels with float16 scales lose nothing.
        zeros: integer zero points as float32 [rows, groups].
        bits: width of a code.
        group: group size in columns.
    """

    scales: Floats
    zeros: Floats
    bits: int
    group: int

    @classmethod
    def spanning(cls, weight: Floats, *, bits: int, group: int, symmetric: bool, importance: Floats | None = None) -> Grid:
        """The grid of a float32 matrix [rows, columns].

        Without ``importance`` it spans each group's full range, as round-to-nearest quantisers do (symmetric: the largest
        magnitude over ``(2 ** bits - 1) / 2``). With ``importance``, float32 [columns], each group takes the share of its range
        with the least squared rounding error weighted by it: the output error on calibration text, were columns independent.
        """
        rows, columns = weight.shape
        groups = weight.reshape(rows, columns // group, group)
        low, high = _range(groups, symmetric)
        if importance is None:
            return cls(*_points(low, high, bits, symmetric), bits, group)
        weights = importance.reshape(1, columns // group, group)
        best: tuple[Floats, Floats] | None = None
        least = np.empty(0, np.float32)
        for shrink in SHRINKS:
            scales, zeros = _points(low * shrink, high * shrink, bits, symmetric)
            error = _round(groups, scales[:, :, None], zeros[:, :, None], bits)
            error -= zeros[:, :, None]
            error *= scales[:, :, None]
            error -= groups
            np.square(error, out=error)
            error *= weights
            total = error.sum(axis=2)
            if best is None:
                best, least = (scales, zeros), total
            else:
                better = total < least
                least = np.where(better, total, least)
                best = (np.where(better, scales, best[0]), np.where(better, zeros, best[1]))
        assert best is not None
        return cls(*best, bits, group)

    def nearest(self, weight: Floats) -> QuantizedTensor:
        """Round every weight to the nearest code of its group."""
        rows, columns = weight.shape
        groups = weight.reshape(rows, columns // self.group, self.group)
        codes = _round(groups, self.scales[:, :, None], self.zeros[:, :, None], self.bits)
        return self.tensor(codes.reshape(rows, columns))

    def tensor(self, codes: Floats) -> QuantizedTensor:
        """The quantised matrix of codes [rows, columns]."""
        middle = np.float32(2 ** (self.bits - 1))
        symmetric = bool((self.zeros == middle).all())
        return QuantizedTensor(
            codes=codes.astype(np.uint8),
            scales=self.scales,
            bits=self.bits,
            group=self.group,
            zeros=None if symmetric else self.zeros.astype(np.uint8),
        )


def _range(groups: Floats, symmetric: bool) -> tuple[Floats, Floats]:
    if symmetric:
        largest = np.abs(groups).max(axis=2)
        return -largest, largest
    # Zero must stay exactly representable, so the range always holds it.
    return np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)


def _points(low: Floats, high: Floats, bits: int, symmetric: bool) -> tuple[Floats, Floats]:
    steps = np.float32(2**bits - 1)
    scales = (high - low) / steps
    # A group of zeros can have any scale; 1 avoids subnormal numbers.
    scales = np.where(scales > 0, scales, np.float32(1))
    with np.errstate(over="ignore"):  # such a scale is not taken
        half = scales.astype(np.float16).astype(np.float32)
    # Outside float16's normal range the float32 scale is kept: its rounding error would be large.
    scales = np.where((scales > 6.2e-5) & (scales < 6e4), half, scales)
    if symmetric:
        return scales, np.full_like(scales, 2 ** (bits - 1))
    return scales, np.clip(np.rint(-low / scales), 0, steps)


def _round(groups: Floats, scales: Floats, zeros: Floats, bits: int) -> Floats:
    codes = groups / scales
    np.rint(codes, out=codes)
    codes += zeros
    return np.clip(codes, 0, 2**bits - 1, out=codes)

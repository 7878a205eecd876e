"""Rotary embeddings in one form: each channel of a head and its counterpart lie half a head apart.

Families rotate whole heads or a part of them, and pair channels with neighbours or with those half of that part away. Scores do not depend
on the order of channels, so queries and keys are laid out alike when the weights are read, and a step rotates them all the same way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Rope

Floats = npt.NDArray[np.float32]


def channel_order(head_dim: int, rope: Rope | None) -> list[int] | None:
    """The stored channel for each place of a head; None where each has its own place."""
    if rope is None:
        return None
    half, turned = head_dim // 2, rope.dim // 2
    first = range(0, rope.dim, 2) if rope.interleaved else range(turned)
    second = range(1, rope.dim, 2) if rope.interleaved else range(turned, rope.dim)
    order = [-1] * head_dim
    order[:turned], order[half : half + turned] = first, second
    rest = iter(range(rope.dim, head_dim))
    order = [next(rest) if channel < 0 else channel for channel in order]
    return None if order == list(range(head_dim)) else order


class RotationTable:
    """Cosines and sines of a rope for short and for long sequences, computed as far as positions have come."""

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self._rope = rope
        self._head_dim = head_dim
        self._tables: dict[bool, tuple[Floats, Floats]] = {}

    def rows(self, positions: npt.NDArray[np.int32], *, long: bool) -> tuple[Floats, Floats]:
        """What heads, and their exchanged halves, are multiplied by: float32 [n, 1, head_dim] each. ``long``: of a sequence past
        ``Rope.switch``."""
        most = int(positions.max()) + 1
        cos, sin = self._tables.get(long, (None, None))
        if cos is None or sin is None or len(cos) < most:
            cos, sin = self._tables[long] = self._computed(1 << (most - 1).bit_length(), long=long)
        return cos[positions], sin[positions]

    def _computed(self, positions: int, *, long: bool) -> tuple[Floats, Floats]:
        half, turned = self._head_dim // 2, self._rope.dim // 2
        cos, sin = np.ones((positions, 1, half), np.float32), np.zeros((positions, 1, half), np.float32)
        length = (self._rope.switch or 0) + 1 if long else 1
        cos[:, 0, :turned], sin[:, 0, :turned] = self._rope.tables(positions, length)
        return np.concatenate([cos, cos], -1), np.concatenate([-sin, sin], -1)

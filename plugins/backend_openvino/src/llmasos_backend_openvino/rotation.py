"""The rotation factors of positions, for heads whose channels stand in ``channel_order``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Rope

Floats = npt.NDArray[np.float32]


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

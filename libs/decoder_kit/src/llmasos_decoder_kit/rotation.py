"""The rotation factors of every position, for heads whose channels stand in ``channel_order``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Rope


def rope_table(head_dim: int, rope: Rope, positions: int, lengths: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Cosines and sines float32 [len(lengths) * positions, 2, head_dim / 2] of every position, once for sequences of each length.

    Channels that are not rotated have the cosine 1.
    """
    table = np.zeros((len(lengths), positions, 2, head_dim // 2), np.float32)
    table[:, :, 0] = 1.0
    for each, length in zip(table, lengths, strict=True):
        each[:, 0, : rope.dim // 2], each[:, 1, : rope.dim // 2] = rope.tables(positions, length)
    return table.reshape(-1, 2, head_dim // 2)

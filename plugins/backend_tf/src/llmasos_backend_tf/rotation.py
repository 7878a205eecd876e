"""Rotary embeddings in one channel order: each rotated channel is paired with the one half a head away.

Families rotate full or partial heads, and pair adjacent channels or channels half the rotated part apart. Attention scores do not depend on
the order of channels if queries and keys share it, so the weights are permuted when they are read, and a step rotates all families the same
way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Rope


def channel_order(head_dim: int, rope: Rope | None) -> list[int] | None:
    """The stored channel at each position of a head; None for the stored order."""
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


def rope_table(head_dim: int, rope: Rope, positions: int, lengths: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Cosines and sines float32 [len(lengths) * positions, 2, head_dim / 2] of every position, once for sequences of each length.

    Channels that are not rotated have the cosine 1.
    """
    table = np.zeros((len(lengths), positions, 2, head_dim // 2), np.float32)
    table[:, :, 0] = 1.0
    for each, length in zip(table, lengths, strict=True):
        each[:, 0, : rope.dim // 2], each[:, 1, : rope.dim // 2] = rope.tables(positions, length)
    return table.reshape(-1, 2, head_dim // 2)

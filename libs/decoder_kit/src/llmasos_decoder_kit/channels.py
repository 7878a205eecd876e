"""The order of a head's channels in which each rotated channel is paired with the one half a head away.

Families rotate full or partial heads, and pair adjacent channels or channels half the rotated part apart. Attention scores do not depend on
the order of channels if queries and keys share it, so a loader permutes the weights when it reads them, and a step rotates all families the
same way.
"""

from __future__ import annotations

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

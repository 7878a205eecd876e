"""The order of the elements of an attention head in the graph.

The attention operator rotates whole heads of a multiple of 16 elements, each element paired with the one half a head away. Attention scores
do not depend on the order of a head's elements if queries and keys share it. So every other rotation and head size is expressed by
permuting the elements and padding with zeros: the rows of the projection weights are stored in that order. Pairs that are not rotated get
the angle 0.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import DecoderConfig, QuantizedTensor, Rope, Tensor

Indices = npt.NDArray[np.int64]
#: The operator accepts only head sizes that are multiples of this.
_MULTIPLE: Final = 16
#: Marks a zero element in an order.
ZERO: Final = -1


def head_width(config: DecoderConfig) -> int:
    """Elements of a head in the graph and in the KV cache, zero padding included."""
    return -(-config.head_dim // _MULTIPLE) * _MULTIPLE


def kv_bytes_per_token(config: DecoderConfig) -> int:
    """Bytes of the keys and values of one token in all layers, zero padding included."""
    return 2 * config.num_layers * config.num_kv_heads * head_width(config) * np.dtype(np.float32).itemsize


@attrs.frozen(eq=False)
class HeadOrder:
    """The permutation of a model's head elements.

    Attributes:
        elements: int64 [width], indices of elements, or ``ZERO``.
    """

    elements: Indices

    @classmethod
    def plain(cls, head_dim: int, width: int) -> HeadOrder:
        """Elements in their stored order, then zeros."""
        return cls(np.where(np.arange(width) < head_dim, np.arange(width), ZERO))

    @classmethod
    def rotated(cls, rope: Rope, head_dim: int, width: int) -> HeadOrder:
        """Each rotated element ``width / 2`` from its counterpart; the other elements and then zeros at the remaining positions."""
        half = rope.dim // 2
        elements = np.full(width, ZERO, dtype=np.int64)
        elements[:half] = np.arange(0, rope.dim, 2) if rope.interleaved else np.arange(half)
        elements[width // 2 : width // 2 + half] = elements[:half] + (1 if rope.interleaved else half)
        others = np.arange(rope.dim, head_dim)
        elements[np.flatnonzero(elements == ZERO)[: len(others)]] = others
        return cls(elements)

    def rows(self, heads: int, head_dim: int) -> Indices | None:
        """Indices into the rows of ``heads`` concatenated heads, or ``ZERO``; None: the identity."""
        starts = np.arange(heads)[:, None] * head_dim
        rows = np.where(self.elements == ZERO, ZERO, starts + self.elements).reshape(-1)
        return None if np.array_equal(rows, np.arange(heads * head_dim)) else rows


def chosen_rows(tensor: Tensor, rows: Indices | None) -> Tensor:
    """The rows of a matrix, or the elements of a vector, in the order of ``rows``, with zeros for ``ZERO``; None: all."""
    if rows is None:
        return tensor
    zeros = rows == ZERO
    if not isinstance(tensor, QuantizedTensor):
        taken = tensor[rows]
        taken[zeros] = 0
        return taken
    codes = tensor.take_rows(rows)
    # Codes times a scale of 0 are 0.
    scales = np.where(zeros[:, None], np.float32(0), codes.scales)
    minimums = None if codes.minimums is None else np.where(zeros[:, None], np.float32(0), codes.minimums)
    return attrs.evolve(codes, scales=scales, minimums=minimums)

"""How the elements of a head stand in the graph.

The attention operator rotates whole heads of a multiple of 16 elements, each element with its counterpart half a head away. Scores do
not depend on the order of a head's elements, as long as queries and keys have the same one, so that every other rotation, and every
other size, is that one on heads whose elements are moved, with zeros between: the rows of the projections' weights are stored in that
order. Pairs that are not rotated are turned by 0.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import DecoderConfig, QuantizedTensor, Rope, Tensor

Indices = npt.NDArray[np.int64]
#: The operator refuses other multiples.
_MULTIPLE: Final = 16
#: In an order, the place of a zero.
ZERO: Final = -1


def head_width(config: DecoderConfig) -> int:
    """Elements of a head in the graph and in the KV cache: those of the model and the zeros behind them."""
    return -(-config.head_dim // _MULTIPLE) * _MULTIPLE


def kv_bytes_per_token(config: DecoderConfig) -> int:
    """Bytes of the keys and values of one token in all layers, the zeros of its heads among them."""
    return 2 * config.num_layers * config.num_kv_heads * head_width(config) * np.dtype(np.float32).itemsize


@attrs.frozen(eq=False)
class HeadOrder:
    """Which element of a model's head stands where.

    Attributes:
        elements: int64 [width], indices of elements, or ``ZERO``.
    """

    elements: Indices

    @classmethod
    def plain(cls, head_dim: int, width: int) -> HeadOrder:
        """Elements as they are, zeros behind them."""
        return cls(np.where(np.arange(width) < head_dim, np.arange(width), ZERO))

    @classmethod
    def rotated(cls, rope: Rope, head_dim: int, width: int) -> HeadOrder:
        """Each element that is rotated ``width / 2`` from its counterpart; the others, then zeros, in the places that are left."""
        half = rope.dim // 2
        elements = np.full(width, ZERO, dtype=np.int64)
        elements[:half] = np.arange(0, rope.dim, 2) if rope.interleaved else np.arange(half)
        elements[width // 2 : width // 2 + half] = elements[:half] + (1 if rope.interleaved else half)
        others = np.arange(rope.dim, head_dim)
        elements[np.flatnonzero(elements == ZERO)[: len(others)]] = others
        return cls(elements)

    def rows(self, heads: int, head_dim: int) -> Indices | None:
        """Indices into the rows of ``heads`` heads one behind the other, or ``ZERO``; None: all of them as they are."""
        starts = np.arange(heads)[:, None] * head_dim
        rows = np.where(self.elements == ZERO, ZERO, starts + self.elements).reshape(-1)
        return None if np.array_equal(rows, np.arange(heads * head_dim)) else rows


def chosen_rows(tensor: Tensor, rows: Indices | None) -> Tensor:
    """The rows of a matrix, or the elements of a vector, that ``rows`` names, in that order, with zeros for ``ZERO``; None: all."""
    if rows is None:
        return tensor
    zeros = rows == ZERO
    if not isinstance(tensor, QuantizedTensor):
        taken = tensor[rows]
        taken[zeros] = 0
        return taken
    codes = tensor.take_rows(rows)
    # Codes times a scale of 0 are 0, whatever the codes.
    scales = np.where(zeros[:, None], np.float32(0), codes.scales)
    minimums = None if codes.minimums is None else np.where(zeros[:, None], np.float32(0), codes.minimums)
    return attrs.evolve(codes, scales=scales, minimums=minimums)

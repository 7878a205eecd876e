"""The weights of a decoder's modules, with fused tensors taken apart and heads in the order that the loader rotates them in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Checkpoint, Part, QuantizedTensor, Tensor, as_float32

Floats = npt.NDArray[np.float32]


class PartReader:
    """Reads the parts of a checkpoint's linear layers, and its norms.

    An order is one that ``channel_order`` gives, applied to each head of a part; None keeps the stored order.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = checkpoint.decoder

    def linear(self, parts: Sequence[Part], orders: Sequence[list[int] | None] | None = None) -> tuple[list[Tensor], Floats | None]:
        """The weight of each part, as stored (an array or a ``QuantizedTensor``), and the biases of all one after the other.

        The bias is float32 [out of all parts], 0 for a part without one; None where no part has one.
        """
        rows = [_rows(part, order) for part, order in zip(parts, orders or [None] * len(parts), strict=True)]
        tensors = [_taken(self._checkpoint.tensor(f"{part.module}.weight"), index) for part, index in zip(parts, rows, strict=True)]
        if not any(part.bias for part in parts):
            return tensors, None
        return tensors, np.concatenate([self._bias(part, index) for part, index in zip(parts, rows, strict=True)])

    def norm(self, place: str, module: str, order: list[int] | None) -> tuple[Floats | None, Floats | None]:
        """Weight and bias of the norm at ``place``, a key of ``DecoderConfig.norms`` or ``final_norm``; None for what it has not.

        Of queries and keys the weight is [heads, head_dim] or [1, head_dim], of others [hidden]. It includes the family's offset.
        """
        c = self._config
        of_heads = place in ("q_norm", "k_norm")
        weight = bias = None
        if c.norm_weight:
            weight = self.vector(f"{module}.weight") + np.float32(c.norm_offset)
            if of_heads:
                weight = weight.reshape(-1, c.head_dim)
                weight = weight if order is None else weight[:, order]
        if c.norm_bias and not of_heads:
            bias = self.vector(f"{module}.bias")
        return weight, bias

    def vector(self, name: str) -> Floats:
        """A tensor in float32."""
        return as_float32(self._checkpoint.tensor(name))

    def _bias(self, part: Part, rows: npt.NDArray[np.intp] | None) -> Floats:
        if not part.bias:
            return np.zeros(part.shape[0], np.float32)
        bias = self.vector(f"{part.module}.bias")
        return bias if rows is None else bias[rows]


class StoredRows:
    """A matrix of which a few rows at a time are read, such as an embedding, as it is stored."""

    def __init__(self, tensor: Tensor) -> None:
        # Copies: a checkpoint's arrays may be views of its file.
        self._tensor = tensor.take_rows(np.arange(tensor.shape[0])) if isinstance(tensor, QuantizedTensor) else np.array(tensor)
        self.columns = tensor.shape[1]
        self.nbytes = self.bytes_of(tensor)

    @staticmethod
    def bytes_of(tensor: Tensor) -> int:
        """Bytes that it will take."""
        if not isinstance(tensor, QuantizedTensor):
            return int(tensor.nbytes)
        parts = (tensor.codes, tensor.scales, tensor.zeros, tensor.minimums)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, index: npt.NDArray[np.int64]) -> Floats:
        """A new array of rows, float32 [n, columns]."""
        found = self._tensor.take_rows(index) if isinstance(self._tensor, QuantizedTensor) else self._tensor[index]
        return as_float32(found)


def _rows(part: Part, order: list[int] | None) -> npt.NDArray[np.intp] | None:
    """The stored row of each row of the part, with its heads' channels in ``order``; None: the stored order."""
    rows = part.row_indices()
    if rows is None and order is None:
        return None
    index = np.arange(part.shape[0]) if rows is None else np.asarray(rows)
    return index if order is None else index.reshape(-1, len(order))[:, order].reshape(-1)


def _taken(tensor: Tensor, rows: npt.NDArray[np.intp] | None) -> Tensor:
    if rows is None:
        return tensor
    return tensor.take_rows(rows) if isinstance(tensor, QuantizedTensor) else tensor[rows]

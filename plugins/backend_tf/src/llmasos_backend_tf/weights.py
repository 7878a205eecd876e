"""The weights of a decoder in the layout of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_backend_tf.linear import CodeMatrix, FloatMatrix
from llmasos_backend_tf.rotation import channel_order
from llmasos_hookspecs import Checkpoint, DecoderConfig, Part, QuantizedTensor, Rope, Tensor, as_float32

Matrix = FloatMatrix | CodeMatrix


@attrs.frozen(eq=False)
class Linear:
    """A matrix with a bias, float32 [out], or without."""

    matrix: Matrix
    bias: Any = None

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes + _nbytes(self.bias)

    def products(self, x: Any, few: int | None) -> list[Any]:
        """x [R, in] -> [R, out] in parts along ``out``; ``few`` is R where it is known and small."""
        out = self.matrix.products(x, few)
        if self.bias is None:
            return out
        return [part + share for part, share in zip(out, tf.split(self.bias, self.matrix.widths), strict=True)]

    def __call__(self, x: Any, few: int | None) -> Any:
        """x [R, in] -> [R, out]."""
        parts = self.products(x, few)
        return parts[0] if len(parts) == 1 else tf.concat(parts, 1)


@attrs.frozen(eq=False)
class Norm:
    """Weight and bias of a norm; None if absent. The weight includes the family's offset."""

    weight: Any
    bias: Any

    @property
    def nbytes(self) -> int:
        return _nbytes(self.weight) + _nbytes(self.bias)


@attrs.frozen(eq=False, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        qkv: queries, keys and values concatenated; channels of queries and keys in the order of ``channel_order``.
        gate: None if the feed-forward has none.
        norms: by the names of ``DecoderConfig.norms``.
        window, rope: of the layer.
    """

    qkv: Linear
    o: Linear
    gate: Linear | None
    up: Linear
    down: Linear
    norms: dict[str, Norm]
    window: int | None
    rope: Rope | None

    @property
    def nbytes(self) -> int:
        linears = [self.qkv, self.o, self.up, self.down, *([] if self.gate is None else [self.gate])]
        return sum(each.nbytes for each in (*linears, *self.norms.values()))


class WeightReader:
    """Reads a checkpoint's tensors into matrices of one type, split into the shares that run in parallel."""

    def __init__(self, checkpoint: Checkpoint, kind: type[FloatMatrix] | type[CodeMatrix], shares: int) -> None:
        self._checkpoint = checkpoint
        self._config: DecoderConfig = checkpoint.decoder
        self._kind = kind
        self._shares = shares

    def layer(self, index: int) -> Layer:
        """The weights of one layer."""
        c, parts, described = self._config, self._config.linears(index), self._config.layer(index)
        order = channel_order(c.head_dim, described.rope)
        return Layer(
            qkv=self._linear([parts["q"], parts["k"], parts["v"]], [order, order, None], unit=c.head_dim),
            o=self._linear([parts["o"]]),
            gate=self._linear([parts["gate"]]) if c.gated else None,
            up=self._linear([parts["up"]]),
            down=self._linear([parts["down"]]),
            norms={place: self._norm_of(place, module, order) for place, module in c.norms(index).items()},
            window=described.window,
            rope=described.rope,
        )

    def final_norm(self) -> Norm:
        return self._norm_of("final_norm", self._config.names.final_norm, None)

    def embedding(self) -> Tensor:
        """The embedding table, as stored."""
        return self._checkpoint.tensor(f"{self._config.names.embedding}.weight")

    def head(self) -> Linear:
        """The output head."""
        c = self._config
        module = c.names.embedding if c.tie_embeddings else c.names.head
        bias = self._vector(f"{c.names.head}.bias") if c.head_bias else None
        return Linear(self._kind.of([self._checkpoint.tensor(f"{module}.weight")], self._shares), bias)

    def _linear(self, parts: Sequence[Part], orders: Sequence[list[int] | None] = (None,), unit: int = 1) -> Linear:
        rows = [_rows(part, order) for part, order in zip(parts, orders, strict=True)]
        tensors = [_taken(self._checkpoint.tensor(f"{part.module}.weight"), index) for part, index in zip(parts, rows, strict=True)]
        bias = None
        if any(part.bias for part in parts):
            bias = tf.constant(
                np.concatenate([self._bias(part, index) for part, index in zip(parts, rows, strict=True)]).astype(np.float32)
            )
        return Linear(self._kind.of(tensors, self._shares, unit), bias)

    def _bias(self, part: Part, rows: npt.NDArray[np.intp] | None) -> npt.NDArray[np.float32]:
        if not part.bias:
            return np.zeros(part.shape[0], np.float32)
        bias = as_float32(self._checkpoint.tensor(f"{part.module}.bias"))
        return bias if rows is None else bias[rows]

    def _norm_of(self, place: str, module: str, order: list[int] | None) -> Norm:
        """A norm; of queries and keys [heads, head_dim] or [head_dim], else [hidden]."""
        c = self._config
        of_heads = place in ("q_norm", "k_norm")
        weight = bias = None
        if c.norm_weight:
            weight = as_float32(self._checkpoint.tensor(f"{module}.weight")) + np.float32(c.norm_offset)
            if of_heads:
                weight = weight.reshape(-1, c.head_dim)
                weight = weight if order is None else weight[:, order]
        if c.norm_bias and not of_heads:
            bias = self._vector(f"{module}.bias")
        return Norm(None if weight is None else tf.constant(weight), bias)

    def _vector(self, name: str) -> Any:
        return tf.constant(as_float32(self._checkpoint.tensor(name)))


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


def _nbytes(constant: Any) -> int:
    return 0 if constant is None else 4 * int(np.prod(constant.shape))

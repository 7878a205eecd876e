"""The weights of a decoder in the layout of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import tensorflow as tf

from llmasos_backend_tf.linear import Kind, Matrix
from llmasos_decoder_kit.channels import channel_order
from llmasos_decoder_kit.weights import PartReader
from llmasos_hookspecs import Checkpoint, DecoderConfig, Part, Rope, Tensor


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

    def __init__(self, checkpoint: Checkpoint, kind: Kind, shares: int) -> None:
        self._checkpoint = checkpoint
        self._parts = PartReader(checkpoint)
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
        bias = tf.constant(self._parts.vector(f"{c.names.head}.bias")) if c.head_bias else None
        return Linear(self._kind.of([self._checkpoint.tensor(f"{module}.weight")], self._shares), bias)

    def _linear(self, parts: Sequence[Part], orders: Sequence[list[int] | None] | None = None, unit: int = 1) -> Linear:
        tensors, bias = self._parts.linear(parts, orders)
        return Linear(self._kind.of(tensors, self._shares, unit), None if bias is None else tf.constant(bias))

    def _norm_of(self, place: str, module: str, order: list[int] | None) -> Norm:
        weight, bias = self._parts.norm(place, module, order)
        return Norm(None if weight is None else tf.constant(weight), None if bias is None else tf.constant(bias))


def _nbytes(constant: Any) -> int:
    return 0 if constant is None else 4 * int(np.prod(constant.shape))

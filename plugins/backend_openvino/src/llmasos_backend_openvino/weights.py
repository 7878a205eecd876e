"""The weights of a decoder as its graph reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from llmasos_backend_openvino.matrices import Matrix, matrix_of, stacked, with_whole_zeros
from llmasos_decoder_kit.channels import channel_order
from llmasos_decoder_kit.weights import Floats, PartReader
from llmasos_hookspecs import Checkpoint, Part, Rope, Tensor


@attrs.frozen(eq=False)
class Linear:
    """Matrices one below the other, of which there is more than one where their forms differ, and a bias float32 [rows] or none."""

    matrices: Sequence[Matrix]
    bias: Floats | None = None


@attrs.frozen(eq=False)
class Norm:
    """What a normed vector is multiplied by, and what is added to it; None for neither. An offset of the weight is in it."""

    weight: Floats | None
    bias: Floats | None


@attrs.frozen(eq=False, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        qkv: queries, keys and values one below the other; channels of queries and keys in the order of ``channel_order``.
        inner: the gate, if there is one, and the way up.
        norms: by their place, as ``DecoderConfig.norms`` names it.
        rope: of the layer.
    """

    qkv: Linear
    o: Linear
    inner: Linear
    down: Linear
    norms: dict[str, Norm]
    rope: Rope | None


class WeightSource(Protocol):
    """Gives a decoder's weights as its graph reads them, each once."""

    def layer(self, index: int) -> Layer:
        """The weights of one layer."""
        ...

    def final_norm(self) -> Norm: ...
    def embedding(self) -> Matrix: ...

    def head(self) -> Matrix | None:
        """What gives the logits; None where it is the embedding."""
        ...

    def head_bias(self) -> Floats | None: ...


class WeightReader:
    """Implements ``WeightSource``: reads a checkpoint's tensors, floats in the precision that is computed in, and codes
    ``with_whole_zeros`` where asked."""

    def __init__(self, checkpoint: Checkpoint, precision: str, *, whole_zeros: bool = False) -> None:
        self._checkpoint = checkpoint
        self._parts = PartReader(checkpoint)
        self._config = checkpoint.decoder
        self._precision = precision
        self._whole_zeros = whole_zeros

    def layer(self, index: int) -> Layer:
        c, parts, rope = self._config, self._config.linears(index), self._config.layer(index).rope
        order = channel_order(c.head_dim, rope)
        return Layer(
            qkv=self._linear([parts["q"], parts["k"], parts["v"]], [order, order, None]),
            o=self._linear([parts["o"]]),
            inner=self._linear([parts[name] for name in ("gate", "up") if name in parts]),
            down=self._linear([parts["down"]]),
            norms={place: self._norm_of(place, module, order) for place, module in c.norms(index).items()},
            rope=rope,
        )

    def final_norm(self) -> Norm:
        return self._norm_of("final_norm", self._config.names.final_norm, None)

    def embedding(self) -> Matrix:
        return self._matrix(self._config.names.embedding)

    def head(self) -> Matrix | None:
        return None if self._config.tie_embeddings else self._matrix(self._config.names.head)

    def head_bias(self) -> Floats | None:
        return self._parts.vector(f"{self._config.names.head}.bias") if self._config.head_bias else None

    def _matrix(self, module: str) -> Matrix:
        return self._matrix_of(self._checkpoint.tensor(f"{module}.weight"))

    def _linear(self, parts: Sequence[Part], orders: Sequence[list[int] | None] | None = None) -> Linear:
        tensors, bias = self._parts.linear(parts, orders)
        return Linear(stacked([self._matrix_of(tensor) for tensor in tensors]), bias)

    def _matrix_of(self, tensor: Tensor) -> Matrix:
        matrix = matrix_of(tensor, self._precision)
        return with_whole_zeros(matrix) if self._whole_zeros else matrix

    def _norm_of(self, place: str, module: str, order: list[int] | None) -> Norm:
        return Norm(*self._parts.norm(place, module, order))

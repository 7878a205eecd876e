"""Everything that ``DecoderConfig`` describes, but a cap on attention's scores, as an OpenVINO graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np

from llmasos_backend_openvino.attention import parameter, stand_in
from llmasos_backend_openvino.constants import Constants, product
from llmasos_backend_openvino.runtime import ops, ov
from llmasos_backend_openvino.weights import Layer, Linear, Norm, WeightSource
from llmasos_hookspecs import DecoderConfig, Progress, Rope

_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "silu": ops.swish,
    "gelu": lambda x: ops.gelu(x, "ERF"),
    "gelu_tanh": lambda x: ops.gelu(x, "TANH"),
    "relu": ops.relu,
    "relu2": lambda x: ops.multiply(ops.relu(x), ops.relu(x)),
}


@attrs.frozen(eq=False)
class BuiltDecoder:
    """A graph, and the constants whose memory it reads."""

    model: Any
    constants: Constants


def ropes_of(config: DecoderConfig) -> list[Rope]:
    """The different ropes of a decoder, in the order of its inputs ``cos.0``, ``cos.1``: by the first layer that has each."""
    layers = (config.layer(index) for index in range(config.num_layers))
    return list(dict.fromkeys(layer.rope for layer in layers if layer.rope is not None))


def build_decoder(config: DecoderConfig, weights: WeightSource, progress: Progress) -> BuiltDecoder:
    """The graph of a decoder with these weights.

    Inputs, for the tokens of all rows one behind the other: ``tokens`` int32 [n]; ``wanted`` int32 [m], those whose logits are asked for;
    of each rope ``cos.N`` and ``sin.N`` float32 [n, 1, head_dim], what heads and their exchanged halves are multiplied by; where
    attention belongs it has a stand-in, for ``insert_attention``. Output: ``logits`` float32 [m, vocabulary].
    """
    return _Builder(config, weights).build(progress)


class _Builder:
    def __init__(self, config: DecoderConfig, reader: WeightSource) -> None:
        self._config = config
        self._reader = reader
        self._constants = Constants()
        self._ropes = ropes_of(self._config)

    def build(self, progress: Progress) -> BuiltDecoder:
        c = self._config
        tokens, wanted = parameter("tokens", [-1], ov.Type.i32), parameter("wanted", [-1], ov.Type.i32)
        turns = {
            rope: tuple(parameter(f"{name}.{at}", [-1, 1, c.head_dim], ov.Type.f32) for name in ("cos", "sin"))
            for at, rope in enumerate(self._ropes)
        }
        head = self._reader.head()
        lookup, tied = self._constants.embedding(self._reader.embedding(), head=head is None)
        x = _times(lookup(tokens), c.embedding_scale)
        progress.advance()
        for index in range(c.num_layers):
            layer = self._reader.layer(index)
            x = self._block(layer, index, x, None if layer.rope is None else turns[layer.rope])
            progress.advance()
        x = self._normed(ops.gather(x, wanted, ops.constant(np.int32(0))), self._reader.final_norm())
        logits = product(x, tied if head is None else self._constants.matrix(head))
        bias = self._reader.head_bias()
        if bias is not None:
            logits = ops.add(logits, self._constants.vector(bias))
        logits = ops.result(_capped(_times(logits, c.logit_scale), c.logit_softcap), name="logits")
        inputs = [tokens, wanted, *(each for pair in turns.values() for each in pair)]
        return BuiltDecoder(ov.Model([logits], inputs, "decoder"), self._constants)

    def _block(self, layer: Layer, index: int, x: Any, turns: Sequence[Any] | None) -> Any:
        c, norms = self._config, layer.norms

        def normed(x: Any, place: str) -> Any:
            return self._normed(x, norms[place]) if place in norms else x

        first = normed(x, "attention_norm")
        attended = _times(normed(self._attention(layer, index, first, turns), "attention_out_norm"), c.residual_scale)
        if c.block == "parallel":
            second = normed(x, "mlp_norm") if "mlp_norm" in norms else first
            return ops.add(ops.add(x, attended), _times(self._feed_forward(layer, second), c.residual_scale))
        x = ops.add(x, attended)
        return ops.add(x, _times(normed(self._feed_forward(layer, normed(x, "mlp_norm")), "mlp_out_norm"), c.residual_scale))

    def _feed_forward(self, layer: Layer, x: Any) -> Any:
        activation = _ACTIVATIONS[self._config.activation]
        inner = self._linear(layer.inner, x)
        if not self._config.gated:
            return self._linear(layer.down, activation(inner))
        gate, up = _split(inner, 1, [self._config.intermediate_size] * 2)
        return self._linear(layer.down, ops.multiply(activation(gate), up))

    def _attention(self, layer: Layer, index: int, x: Any, turns: Sequence[Any] | None) -> Any:
        c = self._config
        widths = [c.num_heads * c.head_dim, c.kv_width, c.kv_width]
        q, k, v = _split(self._linear(layer.qkv, x), 1, widths)
        if c.qk_norm:
            q, k = (self._normed_heads(part, layer.norms[place]) for part, place in ((q, "q_norm"), (k, "k_norm")))
        if turns is not None:
            q, k = self._turned(q, *turns), self._turned(k, *turns)
        return self._linear(layer.o, stand_in(index, q, k, v, widths[0]))

    def _turned(self, x: Any, cos: Any, sin: Any) -> Any:
        """Queries or keys [n, width] rotated to their positions."""
        half = self._config.head_dim // 2
        heads = self._heads(x)
        exchanged = ops.concat(list(reversed(_split(heads, 2, [half, half]))), 2)
        return self._flat(ops.add(ops.multiply(heads, cos), ops.multiply(exchanged, sin)))

    def _normed_heads(self, x: Any, norm: Norm) -> Any:
        """An RMS norm of queries or keys [n, width], over each head or over all together."""
        if self._config.qk_norm_width:
            return self._rms(x, attrs.evolve(norm, weight=None if norm.weight is None else norm.weight.reshape(-1)))
        return self._flat(self._rms(self._heads(x), norm))

    def _heads(self, x: Any) -> Any:
        return ops.reshape(x, np.array([0, -1, self._config.head_dim], np.int64), special_zero=True)

    def _flat(self, heads: Any) -> Any:
        return ops.reshape(heads, np.array([0, -1], np.int64), special_zero=True)

    def _normed(self, x: Any, norm: Norm) -> Any:
        """A norm of the family's kind along the last axis."""
        if self._config.norm == "rms":
            return self._rms(x, norm)
        return self._scaled(ops.mvn(x, np.array([-1], np.int64), True, self._config.norm_eps, "inside_sqrt"), norm)

    def _rms(self, x: Any, norm: Norm) -> Any:
        # In the form that OpenVINO makes one operation of.
        squares = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1], np.int64), True)
        root = ops.sqrt(ops.add(squares, np.float32(self._config.norm_eps)))
        return self._scaled(ops.multiply(x, ops.divide(np.float32(1), root)), norm)

    def _scaled(self, x: Any, norm: Norm) -> Any:
        if norm.weight is not None:
            x = ops.multiply(x, self._constants.vector(norm.weight))
        return x if norm.bias is None else ops.add(x, self._constants.vector(norm.bias))

    def _linear(self, linear: Linear, x: Any) -> Any:
        """x [n, in] -> [n, out]."""
        found = [product(x, self._constants.matrix(matrix)) for matrix in linear.matrices]
        out = found[0] if len(found) == 1 else ops.concat(found, 1)
        return out if linear.bias is None else ops.add(out, self._constants.vector(linear.bias))


def _split(x: Any, axis: int, sizes: Sequence[int]) -> list[Any]:
    return list(ops.variadic_split(x, axis, list(sizes)).outputs())


def _times(x: Any, factor: float) -> Any:
    return x if factor == 1.0 else ops.multiply(x, np.float32(factor))


def _capped(x: Any, cap: float | None) -> Any:
    return x if cap is None else ops.multiply(ops.tanh(ops.divide(x, np.float32(cap))), np.float32(cap))

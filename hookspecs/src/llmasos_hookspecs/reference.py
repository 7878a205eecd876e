"""The reference decoder: plain numpy, float64. Every backend is compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.decoder import DecoderConfig, Part, Rope
from llmasos_hookspecs.tensors import as_float32

Array = npt.NDArray[np.float64]


@attrs.define(eq=False)
class KeyValues:
    """Keys and values of one sequence: for each layer float64 [kv_heads, tokens, head_dim]; keys are rotated unless the rope has a
    ``switch``."""

    keys: list[Array]
    values: list[Array]

    @property
    def length(self) -> int:
        return int(self.keys[0].shape[1])

    def copy(self) -> KeyValues:
        return KeyValues(list(self.keys), list(self.values))

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.keys = [k[:, :length] for k in self.keys]
        self.values = [v[:, :length] for v in self.values]


class ReferenceDecoder:
    """A slow and simple implementation of everything that ``DecoderConfig`` describes.

    With a sliding window, token i attends to the tokens i - window + 1 .. i. Where a rope has a ``switch``, keys are cached unrotated,
    because their frequencies depend on the length of the sequence.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config: DecoderConfig = checkpoint.decoder
        self._weights = {name: as_float32(checkpoint.tensor(name)).astype(np.float64) for name in checkpoint.names()}

    def cache(self) -> KeyValues:
        """Keys and values of an empty sequence."""
        c = self.config
        empty = np.zeros((c.num_kv_heads, 0, c.head_dim))
        return KeyValues([empty] * c.num_layers, [empty] * c.num_layers)

    def logits(self, tokens: Sequence[int], cache: KeyValues | None = None) -> npt.NDArray[np.float32]:
        """Logits float32 [len(tokens), vocab_size]. The tokens follow those in ``cache``, to which their keys and values are appended.

        Where a sequence grows past its rope's ``switch``, the cached values of its first tokens become invalid: compute such a sequence in
        one call.
        """
        c = self.config
        head = c.names.embedding if c.tie_embeddings else c.names.head
        out = self.hidden(tokens, cache) @ self._weights[f"{head}.weight"].T
        if c.head_bias:
            out = out + self._weights[f"{c.names.head}.bias"]
        return _capped(out * c.logit_scale, c.logit_softcap).astype(np.float32)

    def hidden(self, tokens: Sequence[int], cache: KeyValues | None = None) -> Array:
        """Hidden states float64 [len(tokens), hidden_size] after the final norm, from which the head makes logits; as ``logits``."""
        c = self.config
        cache = self.cache() if cache is None else cache
        positions = np.arange(cache.length, cache.length + len(tokens))
        x = self._weights[f"{c.names.embedding}.weight"][np.asarray(tokens, dtype=np.int64)] * c.embedding_scale
        for index in range(c.num_layers):
            x = self._block(index, x, positions, cache)
        return self._norm(x, c.names.final_norm)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """Greedy generation of ``count`` tokens after ``tokens``."""
        cache, fed, out = self.cache(), list(tokens), []
        for _ in range(count):
            fed = [int(self.logits(fed, cache)[-1].argmax())]
            out += fed
        return out

    def _block(self, index: int, x: Array, positions: npt.NDArray[Any], cache: KeyValues) -> Array:
        c, norms = self.config, self.config.norms(index)

        def normed(x: Array, place: str) -> Array:
            return self._norm(x, norms[place]) if place in norms else x

        scale = c.residual_scale
        first = normed(x, "attention_norm")
        attended = normed(self._attention(index, first, positions, cache), "attention_out_norm") * scale
        if c.block == "parallel":
            return x + attended + scale * self._feed_forward(index, normed(x, "mlp_norm") if "mlp_norm" in norms else first)
        x = x + attended
        return x + scale * normed(self._feed_forward(index, normed(x, "mlp_norm")), "mlp_out_norm")

    def _feed_forward(self, index: int, x: Array) -> Array:
        parts = self.config.linears(index)
        up = self._linear(x, parts["up"])
        if self.config.gated:
            up = _ACTIVATIONS[self.config.activation](self._linear(x, parts["gate"])) * up
        else:
            up = _ACTIVATIONS[self.config.activation](up)
        return self._linear(up, parts["down"])

    def _linear(self, x: Array, part: Part) -> Array:
        rows = part.row_indices()
        weight = self._weights[f"{part.module}.weight"]
        out: Array = x @ (weight if rows is None else weight[rows]).T
        if part.bias:
            bias = self._weights[f"{part.module}.bias"]
            out = out + (bias if rows is None else bias[rows])
        return out

    def _norm(self, x: Array, name: str, *, kind: str = "", bias: bool | None = None) -> Array:
        c = self.config
        if (kind or c.norm) == "layer":
            x = x - x.mean(-1, keepdims=True)
        out: Array = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + c.norm_eps)
        if c.norm_weight:
            out = out * (self._weights[f"{name}.weight"] + c.norm_offset)
        if c.norm_bias if bias is None else bias:
            out = out + self._weights[f"{name}.bias"]
        return out

    def _attention(self, index: int, x: Array, positions: npt.NDArray[Any], cache: KeyValues) -> Array:
        c, layer, parts = self.config, self.config.layer(index), self.config.linears(index)
        n = len(positions)
        q, k, v = (self._linear(x, parts[part]) for part in "qkv")
        if c.qk_norm:
            q, k = (self._head_norm(value, c.norms(index)[f"{part}_norm"]) for part, value in (("q", q), ("k", k)))
        q, k, v = (value.reshape(n, -1, c.head_dim).transpose(1, 0, 2) for value in (q, k, v))
        rope, length = layer.rope, cache.keys[index].shape[1] + n
        late = rope is not None and rope.switch is not None
        if rope is not None:
            q = self._rotate(q, rope, positions, length)
            k = k if late else self._rotate(k, rope, positions, length)
        keys = cache.keys[index] = np.concatenate([cache.keys[index], k], 1)
        values = cache.values[index] = np.concatenate([cache.values[index], v], 1)
        if rope is not None and late:
            keys = self._rotate(keys, rope, np.arange(length), length)
        keys, values = (np.repeat(array, c.num_heads // c.num_kv_heads, 0) for array in (keys, values))
        scores = _capped(np.einsum("hnd,htd->hnt", q, keys) * c.score_scale, c.attention_softcap)
        behind = positions[:, None] - np.arange(keys.shape[1])[None, :]
        seen = behind >= 0
        if layer.window is not None:
            seen &= behind < layer.window
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self._linear(np.einsum("hnt,htd->nhd", weights, values).reshape(n, -1), parts["o"])

    def _rotate(self, x: Array, rope: Rope, positions: npt.NDArray[Any], length: int) -> Array:
        return rotated(x, rope, positions, length)

    def _head_norm(self, x: Array, name: str) -> Array:
        if self.config.qk_norm_width:
            return self._norm(x, name, kind="rms", bias=False)
        return self._norm(x.reshape(len(x), -1, self.config.head_dim), name, kind="rms", bias=False).reshape(x.shape)


def rotated(x: Array, rope: Rope, positions: npt.NDArray[Any], length: int) -> Array:
    """Queries or keys float64 [..., tokens, head_dim], rotated for their positions in a sequence of ``length`` tokens."""
    angles = positions[:, None] * rope.inverse_frequencies(length).astype(np.float64)
    factor = 1.0 if rope.scaling is None else rope.scaling.attention_factor
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    turned, out = x[..., : rope.dim], x.copy()
    first, second = (turned[..., ::2], turned[..., 1::2]) if rope.interleaved else np.split(turned, 2, -1)
    a, b = first * cos - second * sin, second * cos + first * sin
    if rope.interleaved:
        out[..., : rope.dim : 2], out[..., 1 : rope.dim : 2] = a, b
    else:
        out[..., : rope.dim // 2], out[..., rope.dim // 2 : rope.dim] = a, b
    return out


def _capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)


def _gelu(x: Array) -> Array:
    out: Array = x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
    return out


_ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": _gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}

"""The Llama family in plain numpy, float64: what every backend is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.decoder import DecoderConfig
from llmasos_hookspecs.tensors import as_float32

Array = npt.NDArray[np.float64]


@attrs.define(eq=False)
class KeyValues:
    """Keys and values of one sequence: for each layer float64 [kv_heads, tokens, head_dim], keys already rotated."""

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
    """A decoder computed the slow and obvious way.

    Rotary embeddings rotate halves (Su et al., 2021, in the layout of Hugging Face weights); norms are RMSNorm (Zhang and
    Sennrich, 2019); a sliding window lets token i see the tokens i - window + 1 .. i.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config: DecoderConfig = checkpoint.decoder
        self._weights = {name: as_float32(checkpoint.tensor(name)).astype(np.float64) for name in checkpoint.names()}
        self._frequencies = rope_frequencies(self.config)

    def cache(self) -> KeyValues:
        """Keys and values of an empty sequence."""
        c = self.config
        empty = np.zeros((c.num_kv_heads, 0, c.head_dim))
        return KeyValues([empty] * c.num_layers, [empty] * c.num_layers)

    def logits(self, tokens: Sequence[int], cache: KeyValues | None = None) -> npt.NDArray[np.float32]:
        """Logits float32 [len(tokens), vocab_size]; the tokens follow those in ``cache``, which takes them up."""
        c, w = self.config, self._weights
        cache = self.cache() if cache is None else cache
        positions = np.arange(cache.length, cache.length + len(tokens))
        x = w["model.embed_tokens.weight"][np.asarray(tokens, dtype=np.int64)]
        for layer in range(c.num_layers):
            at = f"model.layers.{layer}"
            x = x + self._attention(at, layer, self._norm(x, f"{at}.input_layernorm"), positions, cache)
            h = self._norm(x, f"{at}.post_attention_layernorm")
            gate = self._linear(h, f"{at}.mlp.gate_proj")
            x = x + self._linear(gate / (1 + np.exp(-gate)) * self._linear(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        head = "model.embed_tokens" if c.tie_embeddings else "lm_head"
        return (self._norm(x, "model.norm") @ w[f"{head}.weight"].T).astype(np.float32)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The ``count`` most likely tokens after ``tokens``, one after the other."""
        cache, fed, out = self.cache(), list(tokens), []
        for _ in range(count):
            fed = [int(self.logits(fed, cache)[-1].argmax())]
            out += fed
        return out

    def _linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self._weights[f"{name}.weight"].T
        bias = self._weights.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _norm(self, x: Array, name: str) -> Array:
        out: Array = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.config.norm_eps) * self._weights[f"{name}.weight"]
        return out

    def _attention(self, at: str, layer: int, x: Array, positions: npt.NDArray[Any], cache: KeyValues) -> Array:
        c = self.config
        n = len(positions)
        q = self._linear(x, f"{at}.self_attn.q_proj").reshape(n, c.num_heads, c.head_dim)
        k = self._linear(x, f"{at}.self_attn.k_proj").reshape(n, c.num_kv_heads, c.head_dim)
        v = self._linear(x, f"{at}.self_attn.v_proj").reshape(n, c.num_kv_heads, c.head_dim)
        if c.qk_norm:
            q = self._norm(q, f"{at}.self_attn.q_norm")
            k = self._norm(k, f"{at}.self_attn.k_norm")
        q, k = self._rotate(q, positions), self._rotate(k, positions)
        cache.keys[layer] = np.concatenate([cache.keys[layer], k.transpose(1, 0, 2)], 1)
        cache.values[layer] = np.concatenate([cache.values[layer], v.transpose(1, 0, 2)], 1)
        keys, values = (np.repeat(a[layer], c.num_heads // c.num_kv_heads, 0) for a in (cache.keys, cache.values))
        scores = np.einsum("nhd,htd->hnt", q, keys) / np.sqrt(c.head_dim)
        behind = positions[:, None] - np.arange(keys.shape[1])[None, :]
        seen = behind >= 0
        if c.sliding_window is not None:
            seen &= behind < c.sliding_window
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hnt,htd->nhd", weights, values).reshape(n, -1)
        return self._linear(mixed, f"{at}.self_attn.o_proj")

    def _rotate(self, x: Array, positions: npt.NDArray[Any]) -> Array:
        angles = positions[:, None] * self._frequencies
        cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        left, right = np.split(x, 2, -1)
        out: Array = x * cos + np.concatenate([-right, left], -1) * sin
        return out


def rope_frequencies(config: DecoderConfig) -> Array:
    """Rotary frequencies float64 [head_dim / 2] in radians a position, scaled as ``config.rope_scaling`` says."""
    frequencies: Array = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_max_position * frequencies / (2 * np.pi)
    blend = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0, 1)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies

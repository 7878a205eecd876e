"""The Llama family as a TensorFlow graph over the KV pool."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
import tensorflow as tf

from llmasos_backend_tf.framework import parallel_operations
from llmasos_backend_tf.kv_pool import BLOCK, KVPool
from llmasos_backend_tf.linear import FEW_ROWS, CodeMatrix, FloatMatrix
from llmasos_backend_tf.rope import rope_table
from llmasos_hookspecs import Checkpoint, DecoderConfig, as_float32

Want = Literal["last", "all", "none"]
Matrix = FloatMatrix | CodeMatrix


@attrs.frozen(eq=False, kw_only=True)
class Batch:
    """Inputs of one run, padded to a bucket. B rows of T tokens read N blocks each.

    Attributes:
        tokens, positions: int32 [B, T].
        reads: int32 [B, 2 * kv_heads, N], rows of the KV variables: those of the keys, then those of the values.
        writes: int32 [B, T, 2 * kv_heads, 2], row and offset that each token's keys and values go to.
        last: int32 [B], index of each row's last real token.
    """

    tokens: Any
    positions: Any
    reads: Any
    writes: Any
    last: Any


@attrs.frozen(eq=False, kw_only=True)
class Shared:
    """What the layers of a step have in common. R = B * T tokens; G = B * kv_heads groups of query heads that share keys.

    Attributes:
        few: R where T is 1 and R is known to be small, else None.
        turns: for each part of the heads, factors float32 [R, heads of the part, head_dim] of the heads and of their exchanged halves.
        writes: int32 [R, 2 * kv_heads, 2].
        branches: G in parts that are computed side by side, for each the rows int32 [., N] of the keys and of the values, and the mask
            float32 [., 1, T, S].
        sizes: int32 [branches], the parts of G.
        queries: shape [B, T, kv_heads, heads of a group, head_dim].
        grouped: shape [G, heads of a group * T, head_dim].
        mixed: shape [B, kv_heads, heads of a group, T, head_dim].
        past: shape [-1, S, head_dim].
        scores: shape [-1, heads of a group, T, S].
    """

    few: int | None
    turns: list[tuple[Any, Any]]
    writes: Any
    branches: list[tuple[Any, Any, Any]]
    sizes: Any
    queries: Any
    grouped: Any
    mixed: Any
    past: Any
    scores: Any


class Decoder:
    """Weights and the function over them.

    The function is traced once for each ``want`` with open shapes; its inputs come in buckets, so that the kernels, and the programs
    that XLA makes of the quantised products, meet few shapes. What can be computed side by side is cut into as many parts as TensorFlow
    runs operations at a time.
    """

    def __init__(self, checkpoint: Checkpoint, config: DecoderConfig, pool: KVPool, precision: str) -> None:
        self.config = config
        self._pool = pool
        self._parts = parallel_operations()
        self._kind: type[FloatMatrix] | type[CodeMatrix] = CodeMatrix if precision == "int8" else FloatMatrix
        self._layers = [self._layer(checkpoint, f"model.layers.{i}") for i in range(config.num_layers)]
        self._norm = tf.constant(as_float32(checkpoint.tensor("model.norm.weight")))
        table = checkpoint.tensor("model.embed_tokens.weight")
        head = table if config.tie_embeddings else checkpoint.tensor("lm_head.weight")
        self._head = self._kind.of([head], self._parts)
        if isinstance(self._head, CodeMatrix):
            self._embedding: Any = self._head if config.tie_embeddings else CodeMatrix.of([table], 1)
        else:
            self._embedding = tf.constant(as_float32(table))
        self._rope = tf.constant(rope_table(config, config.context_length + BLOCK))
        self._functions: dict[tuple[Want, int | None], Any] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices, embedding and norms."""
        size = sum(item.nbytes for layer in self._layers for item in layer.values() if isinstance(item, FloatMatrix | CodeMatrix))
        size += self._head.nbytes + 4 * self.config.hidden_size * (2 * self.config.num_layers + 1)
        if self._embedding is not self._head:
            size += self._embedding.nbytes if isinstance(self._embedding, CodeMatrix) else 4 * int(np.prod(self._embedding.shape))
        return size

    def run(self, batch: Batch, want: Want) -> Any:
        """Write the tokens' keys and values; logits float32 [B, vocab] (``last``), [B, T, vocab] (``all``), or a scalar (``none``)."""
        rows, length = batch.tokens.shape
        few = rows if self._kind is CodeMatrix and length == 1 and rows <= FEW_ROWS else None
        function = self._functions.get((want, few))
        if function is None:
            function = self._functions[want, few] = self._trace(want, few)
        return function(*(tf.constant(value) for value in attrs.astuple(batch, recurse=False)))

    def _trace(self, want: Want, few: int | None) -> Any:
        heads = 2 * self.config.num_kv_heads
        length = None if few is None else 1
        specs = ([few, length], [few, length], [few, heads, None], [few, length, heads, 2], [few])

        def step(tokens: Any, positions: Any, reads: Any, writes: Any, last: Any) -> Any:
            return self._step(Batch(tokens=tokens, positions=positions, reads=reads, writes=writes, last=last), want, few)

        return tf.function(step, input_signature=[tf.TensorSpec(spec, tf.int32) for spec in specs], autograph=False)

    def _layer(self, checkpoint: Checkpoint, at: str) -> dict[str, Any]:
        c = self.config

        def matrix(*names: str, unit: int = 1) -> Matrix:
            return self._kind.of([checkpoint.tensor(f"{at}.{name}.weight") for name in names], self._parts, unit)

        def vector(*names: str) -> Any:
            return tf.constant(np.concatenate([as_float32(checkpoint.tensor(f"{at}.{name}")) for name in names]))

        qkv = [f"self_attn.{x}_proj" for x in "qkv"]
        layer = {
            "qkv": matrix(*qkv, unit=c.head_dim),
            "o": matrix("self_attn.o_proj"),
            "gate": matrix("mlp.gate_proj"),
            "up": matrix("mlp.up_proj"),
            "down": matrix("mlp.down_proj"),
            "norm": vector("input_layernorm.weight"),
            "mlp_norm": vector("post_attention_layernorm.weight"),
        }
        if c.attention_bias:
            layer["qkv_bias"] = vector(*(f"{name}.bias" for name in qkv))
        if c.output_bias:
            layer["o_bias"] = vector("self_attn.o_proj.bias")
        if c.mlp_bias:
            for name in ("gate", "up", "down"):
                layer[f"{name}_bias"] = vector(f"mlp.{name}_proj.bias")
        if c.qk_norm:
            norms = {"q": c.num_heads, "k": c.num_kv_heads}
            layer["qk_norm"] = tf.concat([tf.tile(vector(f"self_attn.{x}_norm.weight")[None], (n, 1)) for x, n in norms.items()], 0)
        return layer

    def _step(self, batch: Batch, want: Want, few: int | None) -> Any:
        tokens = tf.reshape(batch.tokens, [-1])
        x = self._embedding.rows(tokens) if isinstance(self._embedding, CodeMatrix) else tf.gather(self._embedding, tokens)
        shared = self._shared(batch, few)
        for index, layer in enumerate(self._layers):
            x = x + self._attention(layer, index, self._rms(x, layer["norm"]), shared)
            h = self._rms(x, layer["mlp_norm"])
            pairs = zip(self._products(h, layer, "gate", few), self._products(h, layer, "up", few), strict=True)
            x = x + self._linear(_joined([gate * tf.sigmoid(gate) * up for gate, up in pairs], 1), layer, "down", few)
        if want == "none":
            return tf.reduce_sum(x)
        b, t = tf.shape(batch.tokens)[0], tf.shape(batch.tokens)[1]
        if want == "last":
            x = tf.gather(x, tf.range(b) * t + batch.last)
        logits = self._linear(self._rms(x, self._norm), {"head": self._head}, "head", few)
        return logits if want == "last" else tf.reshape(logits, (b, t, self.config.vocab_size))

    def _shared(self, batch: Batch, few: int | None) -> Shared:
        c = self.config
        b, t, n = tf.shape(batch.tokens)[0], tf.shape(batch.tokens)[1], tf.shape(batch.reads)[2]
        group = c.num_heads // c.num_kv_heads
        behind = batch.positions[:, :, None] - tf.range(n * BLOCK)[None, None]
        seen = behind >= 0
        if c.sliding_window is not None:
            seen &= behind < c.sliding_window
        mask = tf.repeat(tf.where(seen, 0.0, -1e30), c.num_kv_heads, 0)
        keys, values = (tf.reshape(rows, (-1, n)) for rows in tf.split(batch.reads, 2, 1))
        bounds = tf.range(self._parts + 1) * (b * c.num_kv_heads) // self._parts
        sizes = bounds[1:] - bounds[:-1]
        branches = zip(*(_cut(each, sizes, self._parts) for each in (keys, values, mask[:, None])), strict=True)
        return Shared(
            few=few,
            turns=self._turns(tf.reshape(batch.positions, [-1])),
            writes=tf.reshape(batch.writes, (-1, 2 * c.num_kv_heads, 2)),
            branches=list(branches),
            sizes=sizes,
            queries=tf.stack([b, t, c.num_kv_heads, group, c.head_dim]),
            grouped=tf.stack([b * c.num_kv_heads, group * t, c.head_dim]),
            mixed=tf.stack([b, c.num_kv_heads, group, t, c.head_dim]),
            past=tf.stack([-1, n * BLOCK, c.head_dim]),
            scores=tf.stack([-1, group, t, n * BLOCK]),
        )

    def _turns(self, positions: Any) -> list[tuple[Any, Any]]:
        """The rotation of queries and keys, with the scale of the scores in that of the queries; values keep their place."""
        c = self.config
        cos, sin = tf.unstack(tf.gather(self._rope, positions), 2, 1)
        cos, sin = tf.concat([cos, cos], 1)[:, None], tf.concat([-sin, sin], 1)[:, None]
        scale = np.repeat(np.float32([c.head_dim**-0.5, 1, 0]), [c.num_heads, c.num_kv_heads, c.num_kv_heads])[:, None]
        factors = cos * scale + np.float32(scale == 0), sin * scale
        if c.qk_norm:
            sizes = [c.num_heads + c.num_kv_heads, c.num_kv_heads]
        else:
            sizes = [width // c.head_dim for width in self._layers[0]["qkv"].widths]
        return list(zip(*(tf.split(each, sizes, 1) for each in factors), strict=True))

    def _products(self, x: Any, layer: dict[str, Any], name: str, few: int | None) -> list[Any]:
        """x [R, in] -> [R, out] in parts along ``out``."""
        out = layer[name].products(x, few)
        bias = layer.get(f"{name}_bias")
        return out if bias is None else [part + share for part, share in zip(out, tf.split(bias, layer[name].widths), strict=True)]

    def _linear(self, x: Any, layer: dict[str, Any], name: str, few: int | None) -> Any:
        return _joined(self._products(x, layer, name, few), 1)

    def _rms(self, x: Any, weight: Any) -> Any:
        return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + self.config.norm_eps) * weight

    def _attention(self, layer: dict[str, Any], index: int, x: Any, shared: Shared) -> Any:
        c = self.config
        parts = [tf.reshape(part, (-1, part.shape[1] // c.head_dim, c.head_dim)) for part in self._products(x, layer, "qkv", shared.few)]
        if c.qk_norm:
            qk, v = tf.split(_joined(parts, 1), [c.num_heads + c.num_kv_heads, c.num_kv_heads], 1)
            parts = [self._rms(qk, layer["qk_norm"]), v]
        turned = [part * cos + tf.roll(part, c.head_dim // 2, 2) * sin for part, (cos, sin) in zip(parts, shared.turns, strict=True)]
        q, kv = tf.split(_joined(turned, 1), [c.num_heads, 2 * c.num_kv_heads], 1)
        variable = self._pool.layers[index]
        variable.scatter_nd_update(shared.writes, kv)
        q = tf.transpose(tf.reshape(q, shared.queries), (0, 2, 3, 1, 4))
        # Queries that share keys are rows of one product.
        branches = zip(_cut(tf.reshape(q, shared.grouped), shared.sizes, len(shared.branches)), shared.branches, strict=True)
        mixed = _joined([self._mix(variable, q, *branch, shared) for q, branch in branches], 0)
        mixed = tf.transpose(tf.reshape(mixed, shared.mixed), (0, 3, 1, 2, 4))
        return self._linear(tf.reshape(mixed, (-1, c.num_heads * c.head_dim)), layer, "o", shared.few)

    def _mix(self, variable: Any, q: Any, keys: Any, values: Any, mask: Any, shared: Shared) -> Any:
        """Values mixed by attention: q [., heads of a group * T, head_dim] -> the same shape."""
        past_k, past_v = (tf.reshape(tf.gather(variable, rows), shared.past) for rows in (keys, values))
        scores = tf.matmul(q, past_k, transpose_b=True)
        weights = tf.nn.softmax(tf.reshape(scores, shared.scores) + mask)
        return tf.matmul(tf.reshape(weights, tf.shape(scores)), past_v)


def _joined(parts: list[Any], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def _cut(x: Any, sizes: Any, parts: int) -> list[Any]:
    return [x] if parts == 1 else tf.split(x, sizes, 0, num=parts)

"""The Llama family as a TensorFlow graph over the KV pool."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
import tensorflow as tf

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
        reads: int32 [B, kv_heads, N], rows of the KV variables.
        writes: int32 [B, T, kv_heads, 2], row and offset that each token's keys and values go to.
        last: int32 [B], index of each row's last real token.
    """

    tokens: Any
    positions: Any
    reads: Any
    writes: Any
    last: Any


class Decoder:
    """Weights and the function over them.

    The function is traced once for each ``want`` with open shapes; its inputs come in buckets, so that the kernels, and the programs
    that XLA makes of the quantised products, meet few shapes.
    """

    def __init__(self, checkpoint: Checkpoint, config: DecoderConfig, pool: KVPool, precision: str) -> None:
        self.config = config
        self._pool = pool
        self._kind: type[FloatMatrix] | type[CodeMatrix] = CodeMatrix if precision == "int8" else FloatMatrix
        self._layers = [self._layer(checkpoint, f"model.layers.{i}") for i in range(config.num_layers)]
        self._norm = tf.constant(as_float32(checkpoint.tensor("model.norm.weight")))
        table = checkpoint.tensor("model.embed_tokens.weight")
        head = table if config.tie_embeddings else checkpoint.tensor("lm_head.weight")
        self._head = self._kind.of([head])
        if isinstance(self._head, CodeMatrix):
            self._embedding: Any = self._head if config.tie_embeddings else CodeMatrix.of([table])
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
        heads = self.config.num_kv_heads
        length = None if few is None else 1
        specs = ([few, length], [few, length], [few, heads, None], [few, length, heads, 2], [few])

        def step(tokens: Any, positions: Any, reads: Any, writes: Any, last: Any) -> Any:
            return self._step(Batch(tokens=tokens, positions=positions, reads=reads, writes=writes, last=last), want, few)

        return tf.function(step, input_signature=[tf.TensorSpec(spec, tf.int32) for spec in specs], autograph=False)

    def _layer(self, checkpoint: Checkpoint, at: str) -> dict[str, Any]:
        c = self.config

        def matrix(*names: str) -> Matrix:
            return self._kind.of([checkpoint.tensor(f"{at}.{name}.weight") for name in names])

        def vector(*names: str) -> Any:
            return tf.constant(np.concatenate([as_float32(checkpoint.tensor(f"{at}.{name}")) for name in names]))

        qkv, gate_up = [f"self_attn.{x}_proj" for x in "qkv"], ["mlp.gate_proj", "mlp.up_proj"]
        layer = {
            "qkv": matrix(*qkv),
            "o": matrix("self_attn.o_proj"),
            "gate_up": matrix(*gate_up),
            "down": matrix("mlp.down_proj"),
            "norm": vector("input_layernorm.weight"),
            "mlp_norm": vector("post_attention_layernorm.weight"),
        }
        if c.attention_bias:
            layer["qkv_bias"] = vector(*(f"{name}.bias" for name in qkv))
        if c.output_bias:
            layer["o_bias"] = vector("self_attn.o_proj.bias")
        if c.mlp_bias:
            layer["gate_up_bias"] = vector(*(f"{name}.bias" for name in gate_up))
            layer["down_bias"] = vector("mlp.down_proj.bias")
        if c.qk_norm:
            layer["q_norm"], layer["k_norm"] = vector("self_attn.q_norm.weight"), vector("self_attn.k_norm.weight")
        return layer

    def _step(self, batch: Batch, want: Want, few: int | None) -> Any:
        c = self.config
        x = self._embedding.rows(batch.tokens) if isinstance(self._embedding, CodeMatrix) else tf.gather(self._embedding, batch.tokens)
        angles = tf.gather(self._rope, batch.positions)[:, :, None]
        behind = batch.positions[:, :, None] - tf.range(tf.shape(batch.reads)[2] * BLOCK)[None, None]
        seen = behind >= 0
        if c.sliding_window is not None:
            seen &= behind < c.sliding_window
        mask = tf.where(seen, 0.0, -1e30)[:, None]
        for index, layer in enumerate(self._layers):
            h = self._attention(layer, index, self._rms(x, layer["norm"]), angles, mask, batch, few)
            x = x + self._linear(h, layer, "o", few)
            gate, up = tf.split(self._linear(self._rms(x, layer["mlp_norm"]), layer, "gate_up", few), 2, -1)
            x = x + self._linear(gate * tf.sigmoid(gate) * up, layer, "down", few)
        if want == "none":
            return tf.reduce_sum(x)
        if want == "last":
            x = tf.gather(x, batch.last, batch_dims=1)[:, None]
        logits = self._linear(self._rms(x, self._norm), {"head": self._head}, "head", few)
        return logits[:, 0] if want == "last" else logits

    def _linear(self, x: Any, layer: dict[str, Any], name: str, few: int | None) -> Any:
        shape = tf.shape(x)
        rows = tf.reshape(x, (few if few is not None else -1, x.shape[-1]))
        out = layer[name].multiply(rows, few)
        bias = layer.get(f"{name}_bias")
        if bias is not None:
            out = out + bias
        return tf.reshape(out, (shape[0], shape[1], out.shape[-1]))

    def _rms(self, x: Any, weight: Any) -> Any:
        return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + self.config.norm_eps) * weight

    def _attention(self, layer: dict[str, Any], index: int, x: Any, angles: Any, mask: Any, batch: Batch, few: int | None) -> Any:
        c = self.config
        b, t = tf.shape(x)[0], tf.shape(x)[1]
        qkv = tf.reshape(self._linear(x, layer, "qkv", few), (b, t, c.num_heads + 2 * c.num_kv_heads, c.head_dim))
        q, k, v = tf.split(qkv, [c.num_heads, c.num_kv_heads, c.num_kv_heads], 2)
        if c.qk_norm:
            q, k = self._rms(q, layer["q_norm"]), self._rms(k, layer["k_norm"])
        q, k = _rotate(q, angles), _rotate(k, angles)
        keys, values = self._pool.keys[index], self._pool.values[index]
        keys.scatter_nd_update(batch.writes, k)
        values.scatter_nd_update(batch.writes, v)
        past_k = tf.reshape(tf.gather(keys, batch.reads), (b, c.num_kv_heads, -1, c.head_dim))
        past_v = tf.reshape(tf.gather(values, batch.reads), (b, c.num_kv_heads, -1, c.head_dim))
        group = c.num_heads // c.num_kv_heads
        # Queries that share keys become rows of one product: [B, kv_heads, group * T, head_dim].
        q = tf.reshape(tf.transpose(q, (0, 2, 1, 3)), (b, c.num_kv_heads, group * t, c.head_dim))
        scores = tf.matmul(q, past_k, transpose_b=True) * np.float32(c.head_dim**-0.5)
        scores = tf.reshape(scores, (b, c.num_heads, t, -1)) + mask
        weights = tf.reshape(tf.nn.softmax(scores), (b, c.num_kv_heads, group * t, -1))
        mixed = tf.reshape(tf.matmul(weights, past_v), (b, c.num_heads, t, c.head_dim))
        return tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (b, t, c.num_heads * c.head_dim))


def _rotate(x: Any, angles: Any) -> Any:
    """Rotate halves: x [B, T, heads, head_dim], angles [B, T, 1, 2, head_dim / 2]."""
    cos, sin = angles[..., 0, :], angles[..., 1, :]
    left, right = tf.split(x, 2, -1)
    return tf.concat([left * cos - right * sin, right * cos + left * sin], -1)

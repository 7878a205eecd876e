"""Everything that ``DecoderConfig`` describes as a TensorFlow graph over the KV pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import attrs
import numpy as np
import tensorflow as tf

from llmasos_backend_tf.framework import parallel_operations
from llmasos_backend_tf.kv_pool import BLOCK, KVPool
from llmasos_backend_tf.linear import FEW_ROWS, CodeMatrix, EmbeddingRows, KernelMatrices, Kind
from llmasos_backend_tf.weights import Layer, Norm, WeightReader
from llmasos_decoder_kit.rotation import rope_table
from llmasos_decoder_kit.weights import StoredRows
from llmasos_hookspecs import Checkpoint, DecoderConfig, Rope, UnsupportedModel, as_float32

Want = Literal["last", "all", "none"]
#: For each group of heads, factors float32 [R, heads of the group, head_dim] of the heads and of their swapped halves; the latter None
#: without rotation.
Turns = list[tuple[Any, Any]]

_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "silu": lambda x: x * tf.sigmoid(x),
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
    "relu2": lambda x: tf.square(tf.nn.relu(x)),
}


@attrs.frozen(eq=False, kw_only=True)
class Batch:
    """Inputs of one run, padded to a bucket. B rows of T tokens read N blocks each.

    Attributes:
        tokens, positions: int32 [B, T].
        turns: int32 [B, T], rows of the rope tables: the position, offset by the number of positions if the sequence is past the rope's
            switch.
        reads: int32 [B, 2 * kv_heads, N], rows of the KV variables: those of the keys, then those of the values.
        writes: int32 [B, T, 2 * kv_heads, 2], target row and offset of each token's keys and values.
        last: int32 [B], index of each row's last real token.
    """

    tokens: Any
    positions: Any
    turns: Any
    reads: Any
    writes: Any
    last: Any


@attrs.frozen(eq=False, kw_only=True)
class Shared:
    """Values that all layers of a step share. R = B * T tokens; G = B * kv_heads groups of query heads that share keys.

    Attributes:
        few: R where T is 1 and R is known to be small, else None.
        turns: of each rope.
        writes: int32 [R, 2 * kv_heads, 2].
        branches: G split into parts that run in parallel, for each the rows int32 [., N] of the keys and of the values.
        masks: of each window, float32 [., 1, T, S] for each of those parts.
        sizes: int32 [branches], the parts of G.
        queries: shape [B, T, kv_heads, heads of a group, head_dim].
        grouped: shape [G, heads of a group * T, head_dim].
        mixed: shape [B, kv_heads, heads of a group, T, head_dim].
        past: shape [-1, S, head_dim].
        scores: shape [-1, heads of a group, T, S].
    """

    few: int | None
    turns: dict[Rope | None, Turns]
    writes: Any
    branches: list[tuple[Any, Any]]
    masks: dict[int | None, list[Any]]
    sizes: Any
    queries: Any
    grouped: Any
    mixed: Any
    past: Any
    scores: Any


class Decoder:
    """Weights and the function over them.

    The function is traced once for each ``want`` with open shapes. Inputs are padded to buckets, so that kernels and XLA-compiled quantised
    products see few shapes. Independent work is split into as many parts as TensorFlow runs operations in parallel.
    """

    def __init__(self, checkpoint: Checkpoint, pool: KVPool, kind: Kind, context_length: int) -> None:
        self.config: DecoderConfig = checkpoint.decoder
        self._pool = pool
        self._parts = parallel_operations()
        self._kind = kind
        reader = WeightReader(checkpoint, self._kind, self._parts)
        self._layers = [reader.layer(i) for i in range(self.config.num_layers)]
        self._norm = reader.final_norm()
        self._head = reader.head()
        if self._kind is CodeMatrix:
            tied = self.config.tie_embeddings
            self._embedding: Any = self._head.matrix if tied else CodeMatrix.of([reader.embedding()], 1)
        elif isinstance(kind, KernelMatrices):
            self._embedding = EmbeddingRows(StoredRows(reader.embedding()))
        else:
            self._embedding = tf.constant(as_float32(reader.embedding()))
        self.positions = context_length + BLOCK
        ropes = {layer.rope for layer in self._layers if layer.rope is not None}
        switches = {rope.switch for rope in ropes} - {None}
        if len(switches) > 1:
            raise UnsupportedModel(f"{checkpoint.path} rotates its layers otherwise from {switches} tokens on, and one length is taken.")
        #: Length past which the rotations of a sequence change; None if they do not depend on its length.
        self.switch = next(iter(switches), None)
        lengths = (1,) if self.switch is None else (1, self.switch + 1)
        self._ropes = {rope: tf.constant(rope_table(self.config.head_dim, rope, self.positions, lengths)) for rope in ropes}
        self._functions: dict[tuple[Want, int | None], Any] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices, embedding and norms."""
        size = sum(each.nbytes for each in (*self._layers, self._norm, self._head))
        if self._embedding is not self._head.matrix:
            floats = isinstance(self._embedding, tf.Tensor)
            size += 4 * int(np.prod(self._embedding.shape)) if floats else self._embedding.nbytes
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
        specs = ([few, length], [few, length], [few, length], [few, heads, None], [few, length, heads, 2], [few])

        def step(tokens: Any, positions: Any, turns: Any, reads: Any, writes: Any, last: Any) -> Any:
            return self._step(Batch(tokens=tokens, positions=positions, turns=turns, reads=reads, writes=writes, last=last), want, few)

        return tf.function(step, input_signature=[tf.TensorSpec(spec, tf.int32) for spec in specs], autograph=False)

    def _step(self, batch: Batch, want: Want, few: int | None) -> Any:
        c = self.config
        tokens = tf.reshape(batch.tokens, [-1])
        x = tf.gather(self._embedding, tokens) if isinstance(self._embedding, tf.Tensor) else self._embedding.rows(tokens)
        x = _times(x, c.embedding_scale)
        shared = self._shared(batch, few)
        for index, layer in enumerate(self._layers):
            x = self._block(layer, index, x, shared)
        if want == "none":
            return tf.reduce_sum(x)
        b, t = tf.shape(batch.tokens)[0], tf.shape(batch.tokens)[1]
        if want == "last":
            x = tf.gather(x, tf.range(b) * t + batch.last)
        logits = _capped(_times(self._head(self._normed(x, self._norm), few), c.logit_scale), c.logit_softcap)
        return logits if want == "last" else tf.reshape(logits, (b, t, c.vocab_size))

    def _block(self, layer: Layer, index: int, x: Any, shared: Shared) -> Any:
        c, norms = self.config, layer.norms

        def normed(x: Any, place: str) -> Any:
            return self._normed(x, norms[place]) if place in norms else x

        first = normed(x, "attention_norm")
        attended = _times(normed(self._attention(layer, index, first, shared), "attention_out_norm"), c.residual_scale)
        if c.block == "parallel":
            second = normed(x, "mlp_norm") if "mlp_norm" in norms else first
            return x + attended + _times(self._feed_forward(layer, second, shared.few), c.residual_scale)
        x = x + attended
        return x + _times(normed(self._feed_forward(layer, normed(x, "mlp_norm"), shared.few), "mlp_out_norm"), c.residual_scale)

    def _feed_forward(self, layer: Layer, x: Any, few: int | None) -> Any:
        activation = _ACTIVATIONS[self.config.activation]
        up = layer.up.products(x, few)
        if layer.gate is None:
            inner = [activation(part) for part in up]
        else:
            inner = [activation(gate) * part for gate, part in zip(layer.gate.products(x, few), up, strict=True)]
        return layer.down(_joined(inner, 1), few)

    def _shared(self, batch: Batch, few: int | None) -> Shared:
        c = self.config
        b, t, n = tf.shape(batch.tokens)[0], tf.shape(batch.tokens)[1], tf.shape(batch.reads)[2]
        group = c.num_heads // c.num_kv_heads
        keys, values = (tf.reshape(rows, (-1, n)) for rows in tf.split(batch.reads, 2, 1))
        bounds = tf.range(self._parts + 1) * (b * c.num_kv_heads) // self._parts
        sizes = bounds[1:] - bounds[:-1]
        behind = batch.positions[:, :, None] - tf.range(n * BLOCK)[None, None]
        masks = {}
        for window in {layer.window for layer in self._layers}:
            seen = behind >= 0
            if window is not None:
                seen &= behind < window
            mask = tf.repeat(tf.where(seen, 0.0, -1e30), c.num_kv_heads, 0)
            masks[window] = _cut(mask[:, None], sizes, self._parts)
        turns = tf.reshape(batch.turns, [-1])
        return Shared(
            few=few,
            turns={rope: self._turns(rope, turns) for rope in {layer.rope for layer in self._layers}},
            writes=tf.reshape(batch.writes, (-1, 2 * c.num_kv_heads, 2)),
            branches=list(zip(*(_cut(each, sizes, self._parts) for each in (keys, values)), strict=True)),
            masks=masks,
            sizes=sizes,
            queries=tf.stack([b, t, c.num_kv_heads, group, c.head_dim]),
            grouped=tf.stack([b * c.num_kv_heads, group * t, c.head_dim]),
            mixed=tf.stack([b, c.num_kv_heads, group, t, c.head_dim]),
            past=tf.stack([-1, n * BLOCK, c.head_dim]),
            scores=tf.stack([-1, group, t, n * BLOCK]),
        )

    def _turns(self, rope: Rope | None, positions: Any) -> Turns:
        """The rotation factors of queries and keys; the score scale is folded into those of the queries. Values are not rotated."""
        c = self.config
        if c.qk_norm:
            sizes = [c.num_heads + c.num_kv_heads, c.num_kv_heads]
        else:
            sizes = [width // c.head_dim for width in self._layers[0].qkv.matrix.widths]
        scale = np.repeat(np.float32([c.score_scale, 1, 1]), [c.num_heads, c.num_kv_heads, c.num_kv_heads])[:, None]
        if rope is None:
            return [(part, None) for part in np.split(scale[None], np.cumsum(sizes)[:-1], 1)]
        rotated = np.repeat(np.float32([1, 1, 0]), [c.num_heads, c.num_kv_heads, c.num_kv_heads])[:, None]
        cos, sin = tf.unstack(tf.gather(self._ropes[rope], positions), 2, 1)
        cos, sin = tf.concat([cos, cos], 1)[:, None], tf.concat([-sin, sin], 1)[:, None]
        factors = cos * (rotated * scale) + (1 - rotated), sin * (rotated * scale)
        return list(zip(*(tf.split(each, sizes, 1) for each in factors), strict=True))

    def _normed(self, x: Any, norm: Norm) -> Any:
        """A norm of the family's kind along the last axis."""
        if self.config.norm == "layer":
            x = x - tf.reduce_mean(x, -1, keepdims=True)
        return self._rms(x, norm, -1)

    def _rms(self, x: Any, norm: Norm, axis: int | tuple[int, int]) -> Any:
        x = x * tf.math.rsqrt(tf.reduce_mean(x * x, axis, keepdims=True) + self.config.norm_eps)
        x = x if norm.weight is None else x * norm.weight
        return x if norm.bias is None else x + norm.bias

    def _attention(self, layer: Layer, index: int, x: Any, shared: Shared) -> Any:
        c = self.config
        parts = [tf.reshape(part, (-1, part.shape[1] // c.head_dim, c.head_dim)) for part in layer.qkv.products(x, shared.few)]
        if c.qk_norm:
            q, k, v = tf.split(_joined(parts, 1), [c.num_heads, c.num_kv_heads, c.num_kv_heads], 1)
            axis = (-2, -1) if c.qk_norm_width else -1
            parts = [tf.concat([self._rms(q, layer.norms["q_norm"], axis), self._rms(k, layer.norms["k_norm"], axis)], 1), v]
        turned = [self._turned(part, *turns) for part, turns in zip(parts, shared.turns[layer.rope], strict=True)]
        q, kv = tf.split(_joined(turned, 1), [c.num_heads, 2 * c.num_kv_heads], 1)
        variable = self._pool.layers[index]
        variable.scatter_nd_update(shared.writes, kv)
        q = tf.transpose(tf.reshape(q, shared.queries), (0, 2, 3, 1, 4))
        # Query heads that share keys are rows of one matrix product.
        grouped = _cut(tf.reshape(q, shared.grouped), shared.sizes, len(shared.branches))
        branches = zip(grouped, shared.branches, shared.masks[layer.window], strict=True)
        mixed = _joined([self._mix(variable, q, *rows, mask, shared) for q, rows, mask in branches], 0)
        mixed = tf.transpose(tf.reshape(mixed, shared.mixed), (0, 3, 1, 2, 4))
        return layer.o(tf.reshape(mixed, (-1, c.num_heads * c.head_dim)), shared.few)

    def _turned(self, heads: Any, cos: Any, sin: Any) -> Any:
        """Heads [R, heads, head_dim] rotated to their positions."""
        return heads * cos if sin is None else heads * cos + tf.roll(heads, self.config.head_dim // 2, 2) * sin

    def _mix(self, variable: Any, q: Any, keys: Any, values: Any, mask: Any, shared: Shared) -> Any:
        """Attention output: q [., heads of a group * T, head_dim] -> the same shape."""
        past_k, past_v = (tf.reshape(tf.gather(variable, rows), shared.past) for rows in (keys, values))
        scores = _capped(tf.matmul(q, past_k, transpose_b=True), self.config.attention_softcap)
        weights = tf.nn.softmax(tf.reshape(scores, shared.scores) + mask)
        return tf.matmul(tf.reshape(weights, tf.shape(scores)), past_v)


def _times(x: Any, factor: float) -> Any:
    return x if factor == 1.0 else x * factor


def _capped(x: Any, cap: float | None) -> Any:
    return x if cap is None else cap * tf.tanh(x / cap)


def _joined(parts: list[Any], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def _cut(x: Any, sizes: Any, parts: int) -> list[Any]:
    return [x] if parts == 1 else tf.split(x, sizes, 0, num=parts)

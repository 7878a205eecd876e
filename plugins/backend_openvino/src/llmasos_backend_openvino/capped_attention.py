"""Attention whose scores are capped (gemma2), of plain operations, since PagedAttention has no cap.

A call computes one sequence: the blocks that it holds are gathered in order, and its new keys and values are outputs, which the session
writes into the blocks. So a decoded token copies what its sequence holds, and sequences take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from llmasos_backend_openvino.runtime import ops
from llmasos_hookspecs import DecoderConfig

#: Outputs of layer N: its new keys and values, float32 [n, kv_heads, head_dim].
NEW: Final = ("new_keys", "new_values")


def capped_attention(
    q: Any, new: Sequence[Any], caches: Sequence[Any], past_lens: Any, block_indices: Any, config: DecoderConfig, window: int | None
) -> tuple[Any, list[Any]]:
    """What queries [n, width] attend to, [n, width], and new keys and values as ``NEW`` has them.

    Args:
        new: keys and values [n, kv_width] of the same tokens.
        caches: of keys and values, [blocks, kv_heads, BLOCK, head_dim].
        past_lens: int32 [1], tokens that the sequence holds; block_indices: int32 [b], its blocks.
    """
    c = config
    heads = [_reshaped(part, [-1, c.num_kv_heads, c.head_dim]) for part in new]
    keys, values = (
        ops.concat([_held(cache, past_lens, block_indices, c), ops.transpose(part, _order(1, 0, 2))], 1)
        for cache, part in zip(caches, heads, strict=True)
    )
    group = c.num_heads // c.num_kv_heads
    split = ops.transpose(_reshaped(q, [-1, c.num_kv_heads, group, c.head_dim]), _order(1, 2, 0, 3))
    scores = ops.multiply(ops.matmul(_reshaped(split, [c.num_kv_heads, -1, c.head_dim]), keys, False, True), np.float32(c.score_scale))
    assert c.attention_softcap is not None
    cap = np.float32(c.attention_softcap)
    scores = ops.multiply(ops.tanh(ops.divide(scores, cap)), cap)
    count, whole = _size(heads[0], 0), _size(keys, 1)
    by_head = ops.concat([ops.constant(np.array([c.num_kv_heads, group], np.int64)), _listed(count), _listed(whole)], 0)
    masked = ops.add(ops.reshape(scores, by_head, special_zero=False), _mask(past_lens, whole, window))
    shares = _reshaped_to(ops.softmax(masked, 3), scores)
    attended = ops.reshape(ops.matmul(shares, values, False, False), _with_dim(by_head, c.head_dim), special_zero=False)
    return _reshaped(ops.transpose(attended, _order(2, 0, 1, 3)), [-1, c.num_heads * c.head_dim]), heads


def _held(cache: Any, past_lens: Any, block_indices: Any, config: DecoderConfig) -> Any:
    """What the blocks hold of the sequence's tokens, float32 [kv_heads, past, head_dim]."""
    blocks = ops.convert(ops.gather(cache, block_indices, ops.constant(np.int32(0))), "f32")
    rows = _reshaped(ops.transpose(blocks, _order(1, 0, 2, 3)), [config.num_kv_heads, -1, config.head_dim])
    start, step, axis = (ops.constant(np.array([number], np.int32)) for number in (0, 1, 1))
    return ops.slice(rows, start, past_lens, step, axis)


def _mask(past_lens: Any, whole: Any, window: int | None) -> Any:
    """[n, whole] to add to scores: minus infinity where a token must not look."""
    zero, one = ops.constant(np.int64(0)), ops.constant(np.int64(1))
    past = ops.squeeze(ops.convert(past_lens, "i64"), ops.constant(np.array([0], np.int64)))
    tokens = ops.unsqueeze(ops.range(past, whole, one, "i64"), ops.constant(np.int64(1)))
    seen = ops.range(zero, whole, one, "i64")
    allowed = ops.less_equal(seen, tokens)
    if window is not None:
        allowed = ops.logical_and(allowed, ops.greater(seen, ops.subtract(tokens, ops.constant(np.int64(window)))))
    return ops.select(allowed, ops.constant(np.float32(0)), ops.constant(np.float32(-np.inf)))


def _with_dim(by_head: Any, head_dim: int) -> Any:
    """The shape ``by_head`` with another last size."""
    first = ops.gather(by_head, ops.constant(np.array([0, 1, 2])), ops.constant(np.int32(0)))
    return ops.concat([first, ops.constant(np.array([head_dim], np.int64))], 0)


def _reshaped(x: Any, shape: Sequence[int]) -> Any:
    return ops.reshape(x, np.array(shape, np.int64), special_zero=False)


def _reshaped_to(x: Any, other: Any) -> Any:
    return ops.reshape(x, ops.shape_of(other, "i64"), special_zero=False)


def _size(x: Any, axis: int) -> Any:
    """Int64 []."""
    return ops.gather(ops.shape_of(x, "i64"), ops.constant(np.int32(axis)), ops.constant(np.int32(0)))


def _listed(size: Any) -> Any:
    return ops.unsqueeze(size, ops.constant(np.int64(0)))


def _order(*axes: int) -> Any:
    return ops.constant(np.array(axes, np.int64))

"""Attention of a packed batch over the keys and values in the slots."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llmasos_backend_torch.kv_cache import LayerCache
from llmasos_backend_torch.plan import DecodeRun, PrefillChunk, StepPlan


@attrs.frozen(eq=False)
class AttentionForm:
    """The properties of a layer's attention besides being causal.

    Attributes:
        scale: multiplies the scores.
        window: a token sees this many tokens, itself included; None: all before it.
        softcap: scores become ``softcap * tanh(score / softcap)`` (Gemma 2, arXiv:2408.00118).
        sinks: [heads], scores of one more key, which has no value (GPT-OSS).
        bias: added to the scores: positions of queries [..., q] and of keys [k] -> [..., heads, q, k] (T5, Raffel et al., 2020);
            one for all layers of a step, and only where every query head has its own key head.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether PyTorch's fused attention supports it."""
        return self.softcap is None and self.sinks is None


def attend(plan: StepPlan, cache: LayerCache, query: Tensor, form: AttentionForm) -> Tensor:
    """Causal attention of each packed token over its own sequence, after the new keys and values were written to the cache.

    ``query`` is [total, heads, key_dim]; returns [total, heads * value_dim].
    """
    parts = [_decode(plan, run, cache, query, form) for run in plan.runs]
    parts += [_prefill(plan, chunk, cache, query, form) for chunk in plan.chunks]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decode(plan: StepPlan, run: DecodeRun, cache: LayerCache, query: Tensor, form: AttentionForm) -> Tensor:
    count, span = len(run.lengths), max(run.lengths)
    first = 0 if form.window is None or plan.fixed_mask is not None else max(0, min(run.lengths) - form.window)
    # Query heads that share a key head become rows of one query, so that its keys are read once.
    q = query[run.start : run.start + count].view(count, cache.kv_heads, -1, cache.key_dim)
    keys, values = cache.read(run.row, count, first, span)
    mask = plan.fixed_mask
    if mask is None:
        mask = plan.mask(run.start, form.window or 0, q.dtype, lambda: _decode_mask(run, first, span, form, q))
    if form.is_plain:
        out = scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=form.scale)
    else:
        out = _by_formula(q, keys, values, mask, form, None if form.sinks is None else form.sinks.view(cache.kv_heads, -1, 1))
    return out.reshape(count, -1)


def _decode_mask(run: DecodeRun, first: int, span: int, form: AttentionForm, like: Tensor) -> Tensor | None:
    """Additive mask [count, 1, 1, span - first], with a bias [count, heads, 1, span - first]; None if every key is visible as it is."""
    window = form.window
    if form.bias is None and all(length == span and (window is None or length - window <= first) for length in run.lengths):
        return None
    lengths = torch.tensor(run.lengths, device=like.device)[:, None]
    at = torch.arange(first, span, device=like.device)
    seen = at < lengths
    if window is not None:
        seen &= at >= lengths - window
    mask = _additive(seen, like)[:, None, None]
    return mask if form.bias is None else mask + form.bias(lengths - 1, at)


def _prefill(plan: StepPlan, chunk: PrefillChunk, cache: LayerCache, query: Tensor, form: AttentionForm) -> Tensor:
    end = chunk.position + chunk.count
    first = 0 if form.window is None else max(0, chunk.position + 1 - form.window)
    group = query.shape[1] // cache.kv_heads
    # Key heads become the batch dimension; a stride of 0 repeats each for its group of query heads.
    q = query[chunk.start : chunk.start + chunk.count].view(chunk.count, cache.kv_heads, group, -1).permute(1, 2, 0, 3)
    keys = cache.keys[chunk.row, :, None, first:end].expand(-1, group, -1, -1)
    values = cache.values[chunk.row, :, None, first:end].expand(-1, group, -1, -1)
    causal = (
        form.is_plain
        and form.bias is None
        and not chunk.spans
        and chunk.position == 0
        and (form.window is None or chunk.count <= form.window)
    )
    mask = None
    if not causal:
        mask = plan.mask(chunk.start, form.window or 0, q.dtype, lambda: _prefill_mask(chunk, first, end, form, q))
    if form.is_plain:
        out = scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal, scale=form.scale)
    else:
        out = _by_formula(q, keys, values, mask, form, None if form.sinks is None else form.sinks.view(cache.kv_heads, group, 1, 1))
    return out.permute(2, 0, 1, 3).reshape(chunk.count, -1)


def _prefill_mask(chunk: PrefillChunk, first: int, end: int, form: AttentionForm, like: Tensor) -> Tensor:
    """Additive mask [count, end - first], with a bias [heads, 1, count, end - first]."""
    own = torch.arange(chunk.position, chunk.position + chunk.count, device=like.device)[:, None]
    at = torch.arange(first, end, device=like.device)
    seen = at <= own
    for start, after in chunk.spans:
        seen |= (own >= start) & (own < after) & (at >= start) & (at < after)
    if form.window is not None:  # which bounds what is before a token, in a span too
        seen &= at > own - form.window
    mask = _additive(seen, like)
    return mask if form.bias is None else mask + form.bias(own[:, 0], at)[:, None]


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))


def _by_formula(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, form: AttentionForm, sinks: Tensor | None) -> Tensor:
    """Unfused attention, for forms that the fused kernel lacks; softmax in float32."""
    scores = torch.matmul(q, keys.transpose(-1, -2)) * form.scale
    if form.softcap is not None:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat((scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)), -1)
        return torch.matmul(torch.softmax(scores, -1, torch.float32)[..., :-1].to(q.dtype), values)
    return torch.matmul(torch.softmax(scores, -1, torch.float32).to(q.dtype), values)

"""Sampling on the device: a batch of draws in a few operations, so that only token ids are copied to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from llmasos_hookspecs import Draw

#: Candidates that top-p sorts before it falls back to the whole vocabulary.
_FIRST_NUCLEUS: Final = 256


def draw_tokens(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Draw one token from each row of logits [n, vocab], any float dtype; int64 [n], -1 for a row with NaN, infinity or no candidate.

    A row's token depends on that row and its draw alone. Probabilities are float64, as the runtime's own sampler has them.
    """
    changes = any(len(draw.params.logit_bias) or len(draw.seen) or len(draw.generated) for draw in draws)
    logits = logits.to(torch.float32, copy=changes)
    if changes:
        _change_all(logits, draws)
    tokens = logits.argmax(-1)
    top = logits.gather(-1, tokens[:, None])
    warm = [place for place, draw in enumerate(draws) if draw.params.temperature > 0]
    if warm:
        rows = Rows(warm, len(draws), logits.device)
        rows.put(tokens, _inverse(rows.of(logits), rows.of(top), [draws[place] for place in warm]))
    return tokens.where(top[:, 0].isfinite(), -1)


class Rows:
    """A subset of the rows of a batch of ``count``, in order; the full set needs no copy."""

    def __init__(self, places: list[int], count: int, device: torch.device) -> None:
        self._index = None if len(places) == count else torch.tensor(places, dtype=torch.int64, device=device)

    def of(self, batch: Tensor) -> Tensor:
        return batch if self._index is None else batch.index_select(0, self._index)

    def put(self, batch: Tensor, rows: Tensor) -> None:
        if self._index is None:
            batch.copy_(rows)
        else:
            batch.index_copy_(0, self._index, rows)


def _change_all(logits: Tensor, draws: Sequence[Draw]) -> None:
    """Apply bias, then the repetition penalty, then the presence and frequency penalties."""
    biases = [np.fromiter(draw.params.logit_bias.keys(), np.int64, len(draw.params.logit_bias)) for draw in draws]
    values = [np.fromiter(draw.params.logit_bias.values(), np.float32, len(draw.params.logit_bias)) for draw in draws]
    _change(logits, biases, values, torch.add)
    penalties = [np.full(len(draw.seen), draw.params.repetition_penalty, np.float32) for draw in draws]
    _change(logits, [draw.seen for draw in draws], penalties, lambda scores, by: torch.where(scores < 0, scores * by, scores / by))
    taken = [np.float32(draw.params.frequency_penalty) * draw.counts + np.float32(draw.params.presence_penalty) for draw in draws]
    _change(logits, [draw.generated for draw in draws], taken, torch.sub)


def _change(logits: Tensor, ids: list[Any], values: list[Any], by: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the logits of each row's ``ids`` by ``by(logit, value)``."""
    vocab, device = logits.shape[-1], logits.device
    places = np.concatenate([row * vocab + found for row, found in enumerate(ids)])
    if not len(places):
        return
    at, values_there = torch.from_numpy(places).to(device), torch.from_numpy(np.concatenate(values)).to(device)
    flat = logits.view(-1)
    flat.index_copy_(0, at, by(flat.index_select(0, at), values_there))


def _inverse(logits: Tensor, top: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Inverse transform sampling of logits [n, vocab] with row maxima ``top`` [n, 1], after temperature, top-k, top-p and min-p."""
    device, count = logits.device, len(draws)
    numbers = torch.tensor([(draw.params.temperature, draw.point, draw.params.min_p) for draw in draws], dtype=torch.float64, device=device)
    temperature, point, min_p = numbers.split(1, -1)
    weights = logits.double().sub_(top).div_(temperature).exp_()
    some = [place for place, draw in enumerate(draws) if 0 < draw.params.top_k < logits.shape[-1]]
    if some:
        rows = Rows(some, count, device)
        rows.put(weights, _largest(rows.of(logits), rows.of(weights), [draws[place].params.top_k for place in some]))
    some = [place for place, draw in enumerate(draws) if draw.params.top_p < 1]
    if some:
        rows = Rows(some, count, device)
        rows.put(weights, _nucleus(rows.of(weights), [draws[place].params.top_p for place in some]))
    if any(draw.params.min_p > 0 for draw in draws):
        weights = weights.masked_fill(weights < min_p, 0)  # the most probable token's weight is 1
    ends = weights.cumsum(-1)
    total = ends[:, -1:].contiguous()
    chosen = torch.searchsorted(ends, point * total, right=True)
    return torch.minimum(chosen, torch.searchsorted(ends, total))[:, 0]  # rounding must not select past the last remaining token


def _largest(logits: Tensor, weights: Tensor, ks: list[int]) -> Tensor:
    """The weights of each row's k largest logits, 0 for the others; ties at the boundary all stay."""
    last = torch.tensor(ks, device=logits.device)[:, None] - 1
    least = logits.topk(max(ks), -1).values.gather(-1, last)
    return weights.masked_fill(logits < least, 0)


def _nucleus(weights: Tensor, shares: list[float]) -> Tensor:
    """The largest weights of each row that together reach its share of the sum, 0 for the others; of ties at the boundary the lowest ids
    stay."""
    target = weights.sum(-1, keepdim=True) * torch.tensor(shares, dtype=torch.float64, device=weights.device)[:, None]
    ranked = weights.topk(min(_FIRST_NUCLEUS, weights.shape[-1]), -1).values
    if not bool((ranked.sum(-1, keepdim=True) >= target).all()):  # the distribution is too flat for that many candidates
        ranked = weights.sort(-1, descending=True).values
    before = ranked.cumsum(-1) - ranked
    kept = (before < target).sum(-1, keepdim=True).clamp_(min=1)
    border = ranked.gather(-1, kept - 1)
    equal = weights == border
    room = kept - (ranked > border).sum(-1, keepdim=True)
    return weights.where((weights > border) | (equal & (equal.cumsum(-1) <= room)), 0)

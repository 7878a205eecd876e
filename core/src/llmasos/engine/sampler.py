"""From logits to the next token.

The processors and their order are those of transformers' ``generate``: bias, repetition penalty, then (OpenAI's) frequency and
presence penalties, then temperature, top-k, top-p, min-p. Each row is cut down to its few candidates before anything is sorted: on a
vocabulary of 49,152 a row costs about 30 us where sorting it would cost 100 us (``core/tests/engine/test_sampler.py`` times it).
A row's result depends on that row and its own state alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from llmasos.engine.draws import fresh_seed, uniform
from llmasos_hookspecs import Draw, SamplingParams

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]

#: Rows of the grid that finds a row's largest values: each column's maximum stands for 64 values.
_GRID: Final = 64
#: Shares of the likeliest token's probability down to which top-p looks, one after the other, before it looks at the whole row: the fewer
#: tokens it sorts the better.
_NUCLEUS_CUTS: Final = tuple(np.float32(share) for share in (1e-2, 1e-3, 1e-4))
#: Weights that are summed in float32, in pairs; their sums are summed in float64.
_BLOCK: Final = 256


class Mask(Protocol):
    """The mask of a constraint over the vocabulary."""

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """bool [vocab], True where the token may come next."""
        ...


class TokenCounts:
    """Counts of token occurrences, as arrays that index numpy arrays; grows in place."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        ids, counts = np.unique(np.asarray(tokens, dtype=np.int64), return_counts=True)
        self._indices = {int(token): index for index, token in enumerate(ids)}
        self._ids: Ids = ids
        self._counts = counts.astype(np.float32)

    def add(self, token: int) -> None:
        index = self._indices.get(token)
        if index is None:
            index = self._indices[token] = len(self._indices)
            if index >= len(self._ids):
                grown = max(16, 2 * index)
                self._ids = np.resize(self._ids, grown)
                self._counts = np.resize(self._counts, grown)
            self._ids[index] = token
            self._counts[index] = 0
        self._counts[index] += 1

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._indices)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        return self._counts[: len(self._indices)]


_NOTHING: Final = TokenCounts()


class SamplingState:
    """The sampling state of one sequence.

    Attributes:
        params: of the request.
        seed: the request's, or a fresh one.
        drawn: tokens sampled so far, which is the index in the random stream.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], mask: Mask | None = None) -> None:
        self.params = params
        self.seed = fresh_seed() if params.seed is None else params.seed
        self.drawn = 0
        self.mask = mask
        self._seen = TokenCounts(prompt) if params.repetition_penalty != 1.0 else None
        self._generated = TokenCounts() if params.presence_penalty or params.frequency_penalty else None
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.int64, len(params.logit_bias))
        self._bias = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        self._plain = not (self._seen or self._generated or len(self._bias) or mask)

    def draw(self) -> Draw:
        """The ``Draw`` with which an engine samples the next token itself; it cannot hold a constraint's mask."""
        seen, generated = self._seen or _NOTHING, self._generated or _NOTHING
        point = uniform(self.seed, self.drawn) if self.params.temperature else 0.0
        return Draw(params=self.params, point=point, seen=seen.ids, generated=generated.ids, counts=generated.counts)

    def accept(self, token: int) -> None:
        """Record that ``token`` was sampled."""
        self.drawn += 1
        if self._seen is not None:
            self._seen.add(token)
        if self._generated is not None:
            self._generated.add(token)

    def changed(self, logits: Logits) -> Logits:
        """[vocab] ``logits`` with bias, penalties and constraint; the same array where nothing changes, else a copy."""
        if self._plain:
            return logits
        changed = logits.copy()
        params = self.params
        if len(self._bias):
            changed[self._bias_ids] += self._bias
        if self._seen is not None:
            ids = self._seen.ids
            scores = changed[ids]
            changed[ids] = np.where(
                scores < 0, scores * np.float32(params.repetition_penalty), scores / np.float32(params.repetition_penalty)
            )
        if self._generated is not None and len(ids := self._generated.ids):
            changed[ids] -= np.float32(params.frequency_penalty) * self._generated.counts + np.float32(params.presence_penalty)
        if self.mask is not None:
            changed[~self.mask.allowed(len(changed))] = -np.inf
        return changed


def sample(rows: Sequence[Logits], states: Sequence[SamplingState]) -> list[int | None]:
    """The next token of each sequence: logits [vocab] float32 a row, which are not changed. Does not call ``accept``.

    None for a row that holds NaN or infinity, or nothing that may be chosen.
    """
    return [_next_token(row, state) for row, state in zip(rows, states, strict=True)]


def _next_token(row: Logits, state: SamplingState) -> int | None:
    logits = state.changed(row)
    best = int(logits.argmax())  # of a row with NaN this is a NaN
    if not np.isfinite(logits[best]):
        return None
    if state.params.temperature == 0:
        return best
    return _draw(logits, state.params, uniform(state.seed, state.drawn))


def _draw(logits: Logits, params: SamplingParams, u: float) -> int:
    if params.top_k == 0 and params.top_p == 1.0 and params.min_p == 0.0:
        return _draw_from_all(logits, params.temperature, u)
    ids, probabilities = candidates(logits, params)
    cumulated = np.cumsum(probabilities)
    index = int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))
    return int(ids[min(index, len(ids) - 1)])


def _draw_from_all(logits: Logits, temperature: float, u: float) -> int:
    """Inverse transform sampling over the whole row in two levels: blocks of 256 first, then one block; 2 x faster than one cumulated
    sum over the vocabulary."""
    weights = np.exp((logits - logits.max()) / np.float32(temperature))
    block = _BLOCK
    ends = np.cumsum(_block_sums(weights))
    target = u * ends[-1]
    chosen = min(int(np.searchsorted(ends, target, side="right")), len(ends) - 1)
    within = np.cumsum(weights[chosen * block : (chosen + 1) * block], dtype=np.float64)
    if not len(within) or within[-1] <= 0:  # rounding led past the last block that has any weight
        return int(logits.argmax())
    start = float(ends[chosen - 1]) if chosen else 0.0
    index = int(np.searchsorted(within, min(target - start, np.nextafter(within[-1], 0)), side="right"))
    return chosen * block + min(index, len(within) - 1)


def candidates(logits: Logits, params: SamplingParams) -> tuple[Ids, Probabilities]:
    """The candidates that temperature, top-k, top-p and min-p leave of logits [vocab]: token ids in order, and their probabilities.

    Exact. Of equal logits at the border of top-k all stay, as in transformers; at that of top-p the lowest ids do. Sources: top-k (Fan et
    al., 2018), top-p (Holtzman et al., 2020), min-p (Nguyen et al., 2024).
    """
    top = logits.max()
    if 0 < params.top_k < len(logits):
        ids = largest(logits, params.top_k)
        weights = _weights(logits[ids], top, params.temperature)
        kept = _nucleus(weights, float(weights.sum()), params.top_p) if params.top_p < 1.0 else None
    elif params.top_p < 1.0:
        all_weights = np.exp((logits - top) / np.float32(params.temperature))
        total = float(_block_sums(all_weights).sum())
        for least in _NUCLEUS_CUTS:
            ids = np.flatnonzero(all_weights >= least)
            weights = _weights(logits[ids], top, params.temperature)
            if weights.sum() >= params.top_p * total:
                kept = _nucleus(weights, total, params.top_p)
                break
        else:  # too flat for that: the whole row
            ids = _nucleus(all_weights, total, params.top_p)
            weights, kept = _weights(logits[ids], top, params.temperature), None
    else:
        # A rough cut, one part in a million too generous; the exact one follows in float64.
        least = top + params.temperature * np.log(max(params.min_p * (1 - 1e-6), 1e-300))
        ids = np.flatnonzero(logits >= np.nextafter(np.float32(least), np.float32(-np.inf)))
        weights = _weights(logits[ids], top, params.temperature)
        kept = None
    if kept is not None:
        ids, weights = ids[kept], weights[kept]
    if params.min_p > 0:
        kept = np.flatnonzero(weights >= params.min_p * weights.max())
        ids, weights = ids[kept], weights[kept]
    return ids, weights / weights.sum()


def largest(values: Logits, k: int) -> Ids:
    """Indices, in order, of the k largest of ``values`` [vocab]; more than k where the last ones are equal. Values of minus infinity are
    left out as long as one other is there."""
    width = len(values) // _GRID
    if k < width:
        # k columns hold a value of at least the k-th largest column maximum, so the k largest values all are at least that.
        maxima = np.concatenate([values[: width * _GRID].reshape(_GRID, width).max(axis=0), values[width * _GRID :]])
        least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
        ids = np.flatnonzero(values >= max(least, np.finfo(np.float32).min))
    else:
        ids = np.flatnonzero(values > -np.inf)
    if len(ids) == 0:
        return np.array([int(values.argmax())])
    if len(ids) > k:
        found = values[ids]
        ids = ids[found >= np.partition(found, len(found) - k)[len(found) - k]]
    return ids


def _block_sums(weights: Logits) -> Probabilities:
    """Sums of ``_BLOCK`` weights each, and of the rest; 1.7 x as fast as in float64, and as exact as the weights are."""
    whole = len(weights) // _BLOCK * _BLOCK
    sums = weights[:whole].reshape(-1, _BLOCK).sum(axis=1)
    return np.append(sums.astype(np.float64), weights[whole:].sum(dtype=np.float64))


def _nucleus(weights: npt.NDArray[Any], total: float, top_p: float) -> Ids:
    """Indices, in order, of the largest weights that together reach ``top_p`` of ``total``. Sorts weights without indices: 50 x as fast as
    an argsort."""
    descending = np.sort(weights)[::-1]
    before = np.cumsum(descending, dtype=np.float64) - descending
    keep = max(1, int(np.searchsorted(before, top_p * total, side="left")))
    border = descending[keep - 1]
    more = np.count_nonzero(descending[:keep] > border)
    return np.sort(np.concatenate([np.flatnonzero(weights > border), np.flatnonzero(weights == border)[: keep - more]]))


def _weights(logits: Logits, top: np.float32, temperature: float) -> Probabilities:
    """Unnormalised probabilities; the likeliest token's is 1."""
    return np.exp((logits.astype(np.float64) - float(top)) / temperature)


def log_softmax(logits: Logits) -> Logits:
    """[vocab] natural log probabilities."""
    return logits - np.float32(log_total(logits))


def log_total(logits: Logits) -> float:
    """Logarithm of the sum of the exponentials."""
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))


def log_probability(logits: Logits, token: int, alternatives: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural log probability of ``token`` under the model's own distribution (before penalties, temperature and cuts), and the
    ``alternatives`` likeliest tokens with theirs."""
    normaliser = log_total(logits)
    ids = largest(logits, alternatives) if alternatives else np.zeros(0, np.int64)
    likeliest = ids[np.argsort(-logits[ids], kind="stable")][:alternatives]
    return float(logits[token]) - normaliser, [(int(other), float(logits[other]) - normaliser) for other in likeliest]

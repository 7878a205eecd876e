"""The candidates that top-k, top-p and min-p leave, and the draw of one of them, for many sequences at once.

Each row of logits is narrowed down to few tokens, among which its candidates are, by passes over the vocabulary in float32; then the exact
cuts are made in many rows together in float64, since on so few tokens numpy's calls cost more than its work. A row's result depends on
that row alone: sums are taken from left to right, so that the padding of a shorter row changes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import SamplingParams

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Rows of the grid that finds a row's largest values: each column's maximum stands for 64 values.
_GRID: Final = 64
#: Probabilities down to which top-p looks, one after the other, before it takes a whole row: the fewer tokens it sorts the better.
_NUCLEUS_CUTS: Final = (3e-4, 1e-5)
#: Tokens up to which top-p does not narrow them down once more.
_NARROW: Final = 48
#: How much more than their share the tokens found for top-p must hold, of the sum of all: more than sums in float32 lose.
_MARGIN: Final = 1e-3
#: Weights that are summed in float32; their sums are summed in float64.
_BLOCK: Final = 512
#: Sums of weights that prove that none is too large for float32, and none that matters too small.
_PLAIN_SUMS: Final = (2.0**-60, 2.0**120)
#: Natural logarithm below which a weight counts as this one: smaller ones are denormal numbers, on which ``exp2`` takes 30 x as long.
_LEAST: Final = -83.0
#: Tokens up to which rows are cut together, padded to the longest; longer ones are cut alone.
_WIDTHS: Final = (32, 128, 512)


def _vector_exp2() -> bool:
    """Whether numpy computes ``exp2`` by vector instructions: it then takes half the time of ``exp``, and else five times that."""
    try:
        kernels = np.lib.introspect.opt_func_info(func_name="^exp2$", signature="float32")["exp2"]
    except (AttributeError, KeyError):  # numpy 1.26 and 2.0 do not say
        return False
    return not any(kernel["current"].startswith("baseline") for kernel in kernels.values())


_exponential: Any
_exponential, _UNIT = (np.exp2, float(1 / np.log(2))) if _vector_exp2() else (np.exp, 1.0)


@attrs.frozen(eq=False)
class Tokens:
    """Tokens of a row among which all its candidates are.

    Attributes:
        ids: in order.
        logits: theirs.
        rest: the sum of the weights of the tokens that were left out and that top-p counts, where the likeliest token's weight is 1.
    """

    ids: Ids
    logits: Logits
    rest: float = 0.0


@attrs.frozen(eq=False)
class Blocks:
    """A row of logits [vocab], and the sums of its weights in blocks."""

    logits: Logits
    sums: Logits


class Weights:
    """Unnormalised probabilities of a row of logits, computed in float32 in the same memory for one row after the other."""

    def __init__(self, vocab: int) -> None:
        self._blocks = np.zeros((-(-vocab // _BLOCK), _BLOCK), np.float32)
        #: [vocab].
        self.row: Logits = self._blocks.reshape(-1)[:vocab]
        self._least: Logits | None = None

    def weigh(self, logits: Logits, temperature: float, *, masked: bool) -> Logits | None:
        """Compute the weights of logits [vocab], and return the sums of ``_BLOCK`` of them each; None where the logits hold NaN or
        infinity, or nothing that may be chosen.

        Args:
            masked: most logits are minus infinity, which ``exp2`` is slow on.
        """
        unit = np.float32(min(_UNIT / temperature, 1e30))
        if not masked:
            _exponential(np.multiply(logits, unit, out=self.row), out=self.row)
            sums = self._sums()
            low, high = _PLAIN_SUMS
            if low < np.add.reduce(sums) < high:
                return sums
        top = logits.max()
        if not np.isfinite(top):
            return None
        if self._least is None:
            self._least = np.full(len(logits), _LEAST * _UNIT, np.float32)  # numpy's maximum with one number takes 4 x as long
        np.multiply(np.subtract(logits, top, out=self.row), unit, out=self.row)
        _exponential(np.maximum(self.row, self._least, out=self.row), out=self.row)
        return self._sums()

    def _sums(self) -> Logits:
        sums: Logits = np.einsum("ij->i", self._blocks)
        return sums


def narrowed(logits: Logits, params: SamplingParams, weights: Weights, *, masked: bool) -> Tokens | None:
    """Tokens of logits [vocab] among which the candidates are; None where the logits hold NaN or infinity, or nothing that may be
    chosen."""
    if 0 < params.top_k < len(logits):
        ids = at_least_largest(logits, params.top_k)
        return None if ids is None else Tokens(ids, logits[ids])
    if params.top_p < 1.0:
        return _nucleus(logits, params, weights, masked)
    top = logits.max()
    if not np.isfinite(top):
        return None
    # One part in a million too generous; the exact cut follows in float64.
    least = top + params.temperature * np.log(max(params.min_p * (1 - 1e-6), 1e-300))
    ids = np.flatnonzero(logits >= np.nextafter(np.float32(least), np.float32(-np.inf)))
    return Tokens(ids, logits[ids])


def _nucleus(logits: Logits, params: SamplingParams, weights: Weights, masked: bool) -> Tokens | None:
    sums = weights.weigh(logits, params.temperature, masked=masked)
    if sums is None:
        return None
    total = float(sums.sum(dtype=np.float64))
    most = (1 - min(params.top_p + _MARGIN, 1.0)) * total
    for share in _NUCLEUS_CUTS:
        ids = np.flatnonzero(weights.row >= np.float32(share * total))
        found = weights.row[ids]
        rest = total - float(found.sum())
        if rest > most:
            continue
        if len(ids) > _NARROW:
            ranked = np.sort(found)[::-1]
            some = np.flatnonzero(found >= ranked[min(int(np.searchsorted(np.cumsum(ranked), total - most)), len(ids) - 1)])
            ids, found = ids[some], found[some]
        rest = total - float(found.sum(dtype=np.float64))
        return Tokens(ids, logits[ids], max(rest, 0.0) / float(found.max()))
    ids = np.flatnonzero(logits > -np.inf)
    return Tokens(ids, logits[ids])


def kept(rows: Sequence[Tokens], params: Sequence[SamplingParams]) -> Floats:
    """The cuts in every row: unnormalised probabilities [n, width] of the tokens that stay, 0 for the others and behind a row's last token.

    Exact: of equal logits at the border of top-k all stay, as in transformers; at that of top-p the lowest ids do. Sources: top-k (Fan et
    al., 2018), top-p (Holtzman et al., 2020), min-p (Nguyen et al., 2024).
    """
    width = max(len(row.ids) for row in rows)
    logits = np.full((len(rows), width), -np.inf, np.float32)
    for place, row in enumerate(rows):
        logits[place, : len(row.ids)] = row.logits
    numbers = [(each.temperature, each.top_p, each.min_p, row.rest) for row, each in zip(rows, params, strict=True)]
    temperature, top_p, min_p, rest = np.array(numbers).T[:, :, None]
    top = logits.max(axis=1, keepdims=True).astype(np.float64)
    weights: Floats = np.exp((logits - top) / temperature)
    if any(each.top_k or each.top_p < 1.0 for each in params):
        ranked = np.sort(logits)[:, ::-1]
        last = np.array([min(each.top_k or width, width) - 1 for each in params])[:, None]
        ranked_weights = np.exp((ranked - top) / temperature)
        ranked_weights[ranked < np.take_along_axis(ranked, last, 1)] = 0.0
        ends = np.cumsum(ranked_weights, axis=1)
        limit = np.where(top_p < 1.0, top_p * (ends[:, -1:] + rest), np.inf)
        staying = (ends - ranked_weights < limit) & (ranked_weights > 0)
        count = np.maximum(1, np.count_nonzero(staying, axis=1, keepdims=True))
        border = np.take_along_axis(ranked, count - 1, 1)
        room = count - np.count_nonzero(ranked > border, axis=1, keepdims=True)
        equal = logits == border
        weights[(logits < border) | (equal & (np.cumsum(equal, axis=1) > room))] = 0.0
    weights[weights < min_p] = 0.0
    return weights


def drawn(rows: Sequence[Tokens], params: Sequence[SamplingParams], points: Sequence[float]) -> list[int]:
    """A token of each row by inverse transform sampling, in the order of ids, at points in [0, 1).

    A point is at most 1 - 2^-53, so that its product with a sum is below the sum, also when it is rounded: none leads past the last token
    that stays.
    """
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(next((width for width in _WIDTHS if len(row.ids) <= width), ~place), []).append(place)
    tokens = [0] * len(rows)
    for group in groups.values():
        ends = np.cumsum(kept([rows[place] for place in group], [params[place] for place in group]), axis=1)
        target = np.array([points[place] for place in group])[:, None] * ends[:, -1:]
        chosen = np.count_nonzero(ends <= target, axis=1)
        for place, index in zip(group, chosen, strict=True):
            tokens[place] = int(rows[place].ids[index])
    return tokens


def drawn_from_blocks(rows: Sequence[Blocks], params: Sequence[SamplingParams], points: Sequence[float]) -> list[int]:
    """A token of each whole row by inverse transform sampling at points in [0, 1), in two levels: by the sums of its blocks that
    ``Weights`` found, then among the tokens of one block, whose probabilities are computed once more in float64."""
    if not rows:
        return []
    sums = np.array([row.sums for row in rows], np.float64)
    ends = np.cumsum(sums, axis=1)
    targets = np.array(points) * ends[:, -1]
    chosen = np.count_nonzero(ends <= targets[:, None], axis=1)
    logits = np.full((len(rows), _BLOCK), -np.inf, np.float32)
    for place, (row, block) in enumerate(zip(rows, chosen, strict=True)):
        part = row.logits[block * _BLOCK : (block + 1) * _BLOCK]
        logits[place, : len(part)] = part
    top = np.maximum(logits.max(axis=1, keepdims=True), np.finfo(np.float32).min).astype(np.float64)
    within = np.cumsum(np.exp((logits - top) / np.array([[each.temperature] for each in params])), axis=1)
    every = np.arange(len(rows))
    ahead = (targets - ends[every, chosen]) / sums[every, chosen]  # in [-1, 0): how far before the block's end
    targets = (1 + ahead) * within[:, -1]
    tokens: list[int] = (chosen * _BLOCK + np.count_nonzero(within <= targets[:, None], axis=1)).tolist()
    for place, row in enumerate(rows):
        if not within[place, -1]:  # a block of tokens that must not come, which have the least weight that ``Weights`` knows
            tokens[place] = drawn([Tokens(np.arange(len(row.logits)), row.logits)], [params[place]], [points[place]])[0]
    return tokens


def largest(values: Logits, k: int) -> Ids:
    """Indices, in order, of the k largest of ``values`` [vocab]; more than k where the last ones are equal. Values of minus infinity are
    left out as long as one other is there."""
    ids = at_least_largest(values, k)
    if ids is None:
        return np.array([int(values.argmax())])
    if len(ids) > k:
        found = values[ids]
        ids = ids[found >= np.partition(found, len(found) - k)[len(found) - k]]
    return ids


def at_least_largest(values: Logits, k: int) -> Ids | None:
    """Indices, in order, of the k largest of ``values`` [vocab] and of some more, all above minus infinity; None where there is none, or
    where a value is NaN or infinity."""
    width = len(values) // _GRID
    if k < width:
        # k columns hold a value of at least the k-th largest column maximum, so the k largest values all are at least that.
        maxima = np.concatenate([values[: width * _GRID].reshape(_GRID, width).max(axis=0), values[width * _GRID :]])
        if not np.isfinite(maxima.max()):
            return None
        least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
        return np.flatnonzero(values >= max(least, np.finfo(np.float32).min))
    return np.flatnonzero(values > -np.inf) if np.isfinite(values.max()) else None

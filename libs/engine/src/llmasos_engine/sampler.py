"""From logits to the next token.

The processors and their order are those of transformers' ``generate``: bias, repetition penalty, then (OpenAI's) frequency and
presence penalties, then temperature, top-k, top-p, min-p (``llmasos_engine.cuts``). A row's result depends on that row and its own state
alone.

All on one thread: most passes are too short for numpy to let go of the interpreter for them, and two threads took longer than one
(64 sequences with top-p: 7.8 ms in place of 3.7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_engine.cuts import Blocks, Tokens, Weights, drawn, drawn_from_blocks, largest, narrowed
from llmasos_engine.draws import fresh_seed, uniform
from llmasos_hookspecs import Draw, SamplingParams

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


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


_NO_IDS: Final = np.empty(0, np.int64)
_NO_COUNTS: Final = np.empty(0, np.float32)


class SamplingState:
    """The sampling state of one sequence.

    Attributes:
        params: of the request.
        seed: the request's, or a fresh one.
        drawn: tokens sampled so far, which is the index in the random stream.
        plain: whether ``changed`` changes nothing.
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
        self.plain: Final = not (self._seen or self._generated or len(self._bias) or mask)

    def draw(self) -> Draw:
        """The ``Draw`` with which an engine samples the next token itself; it cannot hold a constraint's mask."""
        point = uniform(self.seed, self.drawn) if self.params.temperature else 0.0
        seen = _NO_IDS if self._seen is None else self._seen.ids
        if self._generated is None:
            return Draw(params=self.params, point=point, seen=seen, generated=_NO_IDS, counts=_NO_COUNTS)
        return Draw(params=self.params, point=point, seen=seen, generated=self._generated.ids, counts=self._generated.counts)

    def accept(self, token: int) -> None:
        """Record that ``token`` was sampled."""
        self.drawn += 1
        if self._seen is not None:
            self._seen.add(token)
        if self._generated is not None:
            self._generated.add(token)

    def changed(self, logits: Logits) -> Logits:
        """[vocab] ``logits`` with bias, penalties and constraint; the same array where nothing changes, else a copy."""
        if self.plain:
            return logits
        with np.errstate(over="ignore", invalid="ignore"):
            return self._changed(logits.copy())

    def _changed(self, changed: Logits) -> Logits:
        params = self.params
        if len(self._bias):
            changed[self._bias_ids] += self._bias
        if self._seen is not None:
            ids = self._seen.ids
            scores = changed[ids]
            changed[ids] = np.where(
                scores < 0, scores * np.float32(params.repetition_penalty), scores / np.float32(params.repetition_penalty)
            )
        if self._generated is not None:
            changed[self._generated.ids] -= np.float32(params.frequency_penalty) * self._generated.counts + np.float32(
                params.presence_penalty
            )
        if self.mask is not None:
            changed[~self.mask.allowed(len(changed))] = -np.inf
        return changed


def sample(rows: Sequence[Logits], states: Sequence[SamplingState]) -> list[int | None]:
    """The next token of each sequence: logits [vocab] float32 a row, which are not changed. Does not call ``accept``.

    None for a row that holds NaN or infinity, or nothing that may be chosen.
    """
    tokens: list[int | None] = [None] * len(rows)
    random: list[int] = []
    for place, (logits, state) in enumerate(zip(rows, states, strict=True)):
        if state.params.temperature:
            random.append(place)
        else:
            tokens[place] = _likeliest(logits if state.plain else state.changed(logits))
    if random:
        for place, token in zip(random, _drawn([rows[place] for place in random], [states[place] for place in random]), strict=True):
            tokens[place] = token
    return tokens


def _likeliest(logits: Logits) -> int | None:
    best = int(logits.argmax())  # of a row with NaN this is a NaN
    return best if math.isfinite(logits.item(best)) else None


def _drawn(rows: Sequence[Logits], states: Sequence[SamplingState]) -> list[int | None]:
    """As ``sample``, for temperatures above 0."""
    tokens: list[int | None] = [None] * len(rows)
    weights = Weights(len(rows[0]))
    whole: dict[int, Blocks] = {}
    narrow: dict[int, Tokens] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for place, state in enumerate(states):
            logits, params, masked = state.changed(rows[place]), state.params, state.mask is not None
            if params.top_k == 0 and params.top_p == 1.0 and params.min_p == 0.0:
                sums = weights.weigh(logits, params.temperature, masked=masked)
                if sums is not None:
                    whole[place] = Blocks(logits, sums)
            elif (few := narrowed(logits, params, weights, masked=masked)) is not None:
                narrow[place] = few
    places = [*whole, *narrow]
    those = [states[place].params for place in places]
    points = [uniform(states[place].seed, states[place].drawn) for place in places]
    at = len(whole)
    chosen = drawn_from_blocks(list(whole.values()), those[:at], points[:at]) + drawn(list(narrow.values()), those[at:], points[at:])
    for place, token in zip(places, chosen, strict=True):
        tokens[place] = token
    return tokens


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
    logprob = float(logits[token]) - normaliser
    if not alternatives:
        return logprob, []
    ids = largest(logits, alternatives)
    likeliest = ids[np.argsort(-logits[ids], kind="stable")][:alternatives]
    return logprob, [(int(other), float(logits[other]) - normaliser) for other in likeliest]

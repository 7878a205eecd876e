"""The reference implementation of ``Draw``: its formula in float64 over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.sampling import Draw, SamplingParams


def distribution(logits: npt.NDArray[np.float32], draw: Draw) -> npt.NDArray[np.float64] | None:
    """The probability of each token [vocab], from logits [vocab]; None where these hold NaN or no token may be chosen."""
    params = draw.params
    scores = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    seen = scores[draw.seen]
    scores[draw.seen] = np.where(seen < 0, seen * params.repetition_penalty, seen / params.repetition_penalty)
    scores[draw.generated] -= params.frequency_penalty * draw.counts + params.presence_penalty
    if not scores.max() > -np.inf:
        return None
    if params.temperature == 0:
        certain = np.zeros(len(scores))
        certain[int(scores.argmax())] = 1
        return certain
    order = np.argsort(-scores, kind="stable")
    kept = np.exp((scores - scores.max()) / params.temperature)
    if 0 < params.top_k < len(scores):
        kept[scores < scores[order[params.top_k - 1]]] = 0
    if params.top_p < 1:
        ranked = kept[order]
        kept[order[np.cumsum(ranked) - ranked >= params.top_p * kept.sum()]] = 0
    kept[kept < params.min_p * kept.max()] = 0
    return np.asarray(kept / kept.sum(), np.float64)


def drawn_token(logits: npt.NDArray[np.float32], draw: Draw) -> int:
    """The token that ``draw`` samples from logits [vocab]; -1 where there is none."""
    probabilities = distribution(logits, draw)
    if probabilities is None:
        return -1
    cumulated = np.cumsum(probabilities)
    return min(int(np.searchsorted(cumulated, draw.point * cumulated[-1], side="right")), int(np.flatnonzero(probabilities)[-1]))


def acceptable_tokens(logits: npt.NDArray[np.float32], draw: Draw, rounding: float = 1e-3) -> set[int]:
    """The tokens that ``draw`` may sample where point, borders and logits have errors up to ``rounding``."""
    params = draw.params
    if params.temperature == 0:  # the best, and those that are nearly as good
        params = attrs.evolve(params, temperature=1.0, top_k=0, top_p=1.0, min_p=1 - rounding)
        probabilities = distribution(logits, attrs.evolve(draw, params=params))
        return {-1} if probabilities is None else {int(token) for token in np.flatnonzero(probabilities)}
    offsets = (-rounding, 0.0, rounding)
    shares = [min(params.top_p + offset, 1.0) for offset in offsets] if params.top_p < 1 else [1.0]
    points = [min(max(draw.point + offset, 0.0), 1 - 1e-12) for offset in offsets]
    return {
        drawn_token(logits, attrs.evolve(draw, point=point, params=attrs.evolve(params, top_p=share)))
        for point in points
        for share in shares
    }


def example_draws(vocab_size: int) -> Iterator[Draw]:
    """Draws of every kind: each parameter alone, all together, several points, and one that leaves no token to choose."""
    seen = np.arange(3, vocab_size, 3)
    generated, counts = seen[::2], (1 + np.arange(len(seen[::2])) % 7).astype(np.float32)
    nothing = dict.fromkeys(range(vocab_size), float("-inf"))
    penalised = {"repetition_penalty": 1.7, "presence_penalty": 0.4, "frequency_penalty": 0.3}
    cases: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8},
        {"temperature": 1.3, "top_k": 5},
        {"temperature": 1.0, "top_k": vocab_size + 1},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 5.0, "top_p": 0.99},
        {"temperature": 1.0, "min_p": 0.3},
        {"temperature": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
        {"logit_bias": {7: 30.0, 9: 29.0}},
        {"repetition_penalty": 3.0},
        {"presence_penalty": 3.0},
        {"frequency_penalty": 2.0},
        {"temperature": 2.0, "frequency_penalty": 1.0},
        {"temperature": 1.0, "top_p": 0.8, "logit_bias": {4: 1.5, 11: -100.0}, **penalised},
        {"temperature": 1.0, "logit_bias": {token: bias for token, bias in nothing.items() if token != 17}},
        {"logit_bias": nothing},
        {"temperature": 1.0, "top_p": 0.5, "logit_bias": nothing},
    ]
    for place, case in enumerate(cases):
        params = SamplingParams(**case)
        counted = bool(params.presence_penalty or params.frequency_penalty)
        for point in (0.0, (0.37 + 0.21 * place) % 1.0, 1.0 - 2.0**-53) if params.temperature else (0.5,):
            yield Draw(
                params=params,
                point=point,
                seen=seen if params.repetition_penalty != 1 else seen[:0],
                generated=generated if counted else generated[:0],
                counts=counts if counted else counts[:0],
            )

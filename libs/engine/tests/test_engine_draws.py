"""An engine that draws tokens itself changes no answer, and is asked only for what it can draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmasos_engine.draws import uniform
from llmasos_engine.sampler import SamplingState
from llmasos_hookspecs import Constraint, EngineFailed, Row, SamplingParams

SECONDS = 120.0  # after which a test that hangs is given up

DRAWING = frozenset({"fork", "batch", "kv_cache", "sampling"})
PLAIN = DRAWING - {"sampling"}

PARAMS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "seed": 1},
    {"temperature": 1.2, "seed": 2, "top_k": 9},
    {"temperature": 1.0, "seed": 3, "top_p": 0.7, "min_p": 0.02},
    {"temperature": 1.0, "seed": 4, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    {"logit_bias": {5: 6.0, 6: -100.0}, "repetition_penalty": 2.0},
]


def answers(loop: Any, request_of: Any) -> list[tuple[int, ...]]:
    tickets = [loop.submit(request_of([place, 7, 7, 3], 40, ignore_eos=True, **params)) for place, params in enumerate(PARAMS * 3)]
    return [ticket.result(SECONDS).tokens for ticket in tickets]


@pytest.mark.parametrize("memory", [None, 200], ids=["ample memory", "short memory"])
def test_who_draws_changes_nothing(make_loop: Any, hash_engine: Any, request_of: Any, memory: int | None) -> None:
    """Eighteen requests, sampled in every way, get the same tokens from core's sampler and from the engine's, preempted or not."""
    plain, drawing = (hash_engine(features=features, device="cuda:0", memory=memory) for features in (PLAIN, DRAWING))
    assert answers(make_loop(drawing), request_of) == answers(make_loop(plain), request_of)
    rows = [row for step in drawing.steps for row in step if row.want == "last"]
    assert rows
    assert all(row.draw is not None for row in rows), "Logits were asked for that nobody reads."


def test_the_likeliest_token_is_not_asked_of_an_engine_on_the_cpu(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Its logits lie where core reads them; random draws are asked for."""
    engine = hash_engine(features=DRAWING)
    loop = make_loop(engine)
    for temperature in (0.0, 0.8):
        loop.submit(request_of([1, 2], 6, ignore_eos=True, temperature=temperature)).result(SECONDS)
    drawn = [row.draw.params.temperature for step in engine.steps for row in step if row.draw is not None]
    assert drawn == [0.8] * 6


@pytest.mark.parametrize(
    "params",
    [{"logprobs": 2}, {"constraint": Constraint("regex", "[a-f]{3,9}")}, {"prompt_lookup": 4}, {"num_beams": 2}],
    ids=lambda params: next(iter(params)),
)
def test_what_core_must_see_is_not_drawn(make_loop: Any, hash_engine: Any, request_of: Any, params: dict[str, Any]) -> None:
    """Log probabilities, constraints, drafts and beams get logits, and their answers are those of an engine that draws nothing."""
    prompt = [1, 2, 3, 1, 2, 3, 1, 2]
    found = []
    for features in (DRAWING, PLAIN):
        generation = make_loop(hash_engine(features=features)).submit(request_of(prompt, 20, **params)).result(SECONDS)
        found.append((generation.tokens, generation.text, generation.logprobs))
    assert found[0] == found[1]


def test_scores_beside_draws(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A score that shares steps with requests whose tokens the engine draws reads its logits as ever."""
    scores = []
    for features in (DRAWING, PLAIN):
        loop = make_loop(hash_engine(features=features))
        tickets = [loop.submit(request_of([place, 4], 30, ignore_eos=True)) for place in range(3)]
        scores.append(loop.submit_score(request_of([9, 9, 1], 2), [[4, 5], [6]]).result(SECONDS))
        for ticket in tickets:
            ticket.result(SECONDS)
    assert scores[0] == scores[1]


def test_nothing_to_draw_fails_the_request_alone(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Where logits hold NaN the engine draws -1; that request fails, its neighbours do not."""
    engine = hash_engine(features=DRAWING)
    whole = engine.logits

    def broken(tokens: list[int]) -> np.ndarray:
        return np.full_like(whole(tokens), np.nan) if tokens[0] == 13 and len(tokens) > 5 else whole(tokens)

    engine.logits = broken
    loop = make_loop(engine)
    bad, good = (loop.submit(request_of([first, 2, 3], 12, ignore_eos=True, temperature=0.5, seed=1)) for first in (13, 14))
    with pytest.raises(EngineFailed, match="NaN"):
        bad.result(SECONDS)
    assert len(good.result(SECONDS).tokens) == 12


def test_an_engine_without_the_feature_is_not_asked(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """No row carries a draw unless the engine's features say that it samples."""
    engine = hash_engine(features=PLAIN)
    make_loop(engine).submit(request_of([1, 2], 10, temperature=1.0)).result(SECONDS)
    rows: list[Row] = [row for step in engine.steps for row in step]
    assert rows
    assert all(row.draw is None for row in rows)


@pytest.mark.parametrize("penalties", [{}, {"repetition_penalty": 1.3}], ids=["plain", "penalties"])
def test_points_lie_between_zero_and_one(penalties: dict[str, Any]) -> None:
    """One for each token, of the seed's stream; the likeliest token has none, which is 0, since 1 is no point."""
    for temperature in (0.0, 0.7):
        state = SamplingState(SamplingParams(seed=5, temperature=temperature, **penalties), [1, 2])
        points = []
        for token in range(20):
            points.append(state.draw().point)
            state.accept(token)
        assert points == ([uniform(5, index) for index in range(20)] if temperature else [0.0] * 20)
        assert all(0 <= point < 1 for point in points)

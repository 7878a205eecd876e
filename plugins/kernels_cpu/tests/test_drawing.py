"""Tokens that the library draws are those of the contract's formula, and those that the runtime's own sampler draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmasos.engine.sampler import SamplingState, sample
from llmasos_hookspecs import Draw, LLMasOSError, SamplingParams
from llmasos_hookspecs.testing.drawing import acceptable_tokens, example_draws
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.drawing import CpuDraws

SETS = [name for name in library.names() if library.runs(name)]
VOCAB = 5003  # a prime: no block divides it

PARAMS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.2},
    {"temperature": 1e-6},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.5, "top_k": 30},  # by the maxima of blocks there are 20
    {"temperature": 1.5, "top_k": 900},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 8.0, "top_p": 0.999},
    {"temperature": 1.0, "top_p": 1e-9},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"logit_bias": {3: 9.0, 4000: -9.0}},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 0.8, "presence_penalty": 0.6, "frequency_penalty": 0.2, "logit_bias": {7: 2.0}},
]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("vocab", [40, 256, 1531])
def test_every_draw_of_the_contract(name: str, vocab: int) -> None:
    """Rows from flat to peaked: within a ten-thousandth of a border either side's token is right."""
    draws = list(example_draws(vocab))
    spread = np.linspace(0.1, 7, len(draws), dtype=np.float32)[:, None]
    logits = np.random.default_rng(vocab).standard_normal((len(draws), vocab), np.float32) * spread
    before = logits.copy()
    tokens = CpuDraws(name).draw(list(logits), draws)
    assert np.array_equal(logits, before)
    for row, draw, token in zip(logits, draws, tokens, strict=True):
        assert int(token) in acceptable_tokens(row, draw, 1e-4), draw


def test_the_same_tokens_as_the_runtime() -> None:
    """Twenty rounds of fifteen rows, each sampled in a way of its own and with a past of its own: 300 tokens, all the same."""
    rng = np.random.default_rng(11)
    states = [SamplingState(SamplingParams(seed=place, **params), [9, 9, 30]) for place, params in enumerate(PARAMS)]
    for turn in range(20):
        logits = list((rng.standard_normal((len(states), VOCAB)) * (0.5 + turn / 4)).astype(np.float32))
        wanted = sample(logits, states)
        assert CpuDraws().draw(logits, [state.draw() for state in states]).tolist() == wanted
        for state, token in zip(states, wanted, strict=True):
            assert token is not None
            state.accept(token)


def test_equal_logits_at_a_border() -> None:
    """Of equal logits top-k keeps all, top-p those of the lowest ids, as the runtime does."""
    rng = np.random.default_rng(5)
    params = [{"top_k": 3}, {"top_p": 0.3}, {"top_p": 0.55, "top_k": 40}, {"min_p": 0.5}]
    for seed in range(60):
        logits = list(rng.integers(0, 4, (len(params), 64)).astype(np.float32))
        states = [SamplingState(SamplingParams(seed=seed, temperature=1.0, **each), []) for each in params]
        assert CpuDraws().draw(logits, [state.draw() for state in states]).tolist() == sample(logits, states)


@pytest.mark.parametrize("name", SETS[:-1])
def test_every_instruction_set_draws_the_same(name: str) -> None:
    """The bits of plain C++, so that a request gets the same tokens on another processor."""
    rng = np.random.default_rng(3)
    states = [SamplingState(SamplingParams(seed=place, **params), [9, 9, 30]) for place, params in enumerate(PARAMS)]
    for _ in range(10):
        logits = list((rng.standard_normal((len(states), VOCAB)) * 3).astype(np.float32))
        draws = [state.draw() for state in states]
        assert np.array_equal(CpuDraws(name).draw(logits, draws), CpuDraws("scalar").draw(logits, draws))
        for state in states:
            state.accept(int(rng.integers(VOCAB)))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("cut", [{"temperature": 0.0}, {}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
def test_nothing_to_choose(name: str, cut: dict[str, Any]) -> None:
    """NaN or infinity anywhere, or every token forbidden: -1, and the rows beside are drawn. One token that is allowed is drawn."""
    rows = np.random.default_rng(1).standard_normal((5, 300), np.float32)
    rows[0, 299] = np.nan
    rows[1, 17] = np.inf
    rows[2] = rows[3] = -np.inf
    rows[3, 258] = -4.0
    draw = SamplingState(SamplingParams(**{"temperature": 1.0, **cut}), []).draw()
    tokens = CpuDraws(name).draw(list(rows), [draw] * 5)
    assert tokens[:4].tolist() == [-1, -1, -1, 258]
    assert 0 <= tokens[4] < 300


def test_rows_that_are_no_logits() -> None:
    draw = next(example_draws(8))
    for row in (np.zeros(8), np.zeros(16, np.float32)[::2]):
        with pytest.raises(ValueError, match="contiguous float32"):
            CpuDraws().draw([row], [draw])
    assert CpuDraws().draw([], []).tolist() == []


@pytest.mark.parametrize("wrong", [-1, 16])
def test_ids_outside_the_vocabulary(wrong: int) -> None:
    """Nothing is read or written there: a clear error."""
    params = SamplingParams(temperature=1.0, repetition_penalty=2.0)
    nothing = np.zeros(0, np.int64)
    draw = Draw(params=params, point=0.5, seen=np.array([3, wrong]), generated=nothing, counts=np.zeros(0, np.float32))
    with pytest.raises(LLMasOSError, match="index"):
        CpuDraws().draw([np.zeros(16, np.float32)], [draw])

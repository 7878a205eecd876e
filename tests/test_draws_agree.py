"""Tokens that packages draw in the place of the runtime are those of the runtime's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from llmasos_backend_torch.drawing import draw_tokens
from llmasos_engine.sampler import SamplingState, sample
from llmasos_hookspecs import Draw, SamplingParams
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.drawing import CpuDraws

Logits = npt.NDArray[np.float32]
Drawn = Callable[[Logits, Sequence[Draw]], list[int]]

VOCAB = 5003  # a prime: no block divides it

PARAMS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.2},
    {"temperature": 1e-6},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.5, "top_k": 30},  # by the maxima of the kernels' blocks there are 20
    {"temperature": 1.5, "top_k": 300},
    {"temperature": 1.5, "top_k": 900},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 8.0, "top_p": 0.999},  # so flat that the first 256 candidates of torch do not do
    {"temperature": 1.0, "top_p": 1e-9},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"logit_bias": {3: 9.0, 4000: -9.0}},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 0.8, "presence_penalty": 0.6, "frequency_penalty": 0.2, "logit_bias": {7: 2.0}},
]


def by_kernels(logits: Logits, draws: Sequence[Draw]) -> list[int]:
    return [int(token) for token in CpuDraws().draw(list(logits), draws)]


def by_torch(logits: Logits, draws: Sequence[Draw]) -> list[int]:
    return [int(token) for token in draw_tokens(torch.from_numpy(logits), draws)]


def states() -> list[SamplingState]:
    """Each samples in a way of its own and has a past of its own."""
    return [SamplingState(SamplingParams(seed=place, **params), [9, 9, 30]) for place, params in enumerate(PARAMS)]


@pytest.mark.parametrize("drawn", [by_kernels, by_torch])
def test_the_same_tokens_as_the_runtime(drawn: Drawn) -> None:
    """Twenty rounds of sixteen rows: 320 tokens, all the same, and the logits stay as they are."""
    rng, rows = np.random.default_rng(11), states()
    for turn in range(20):
        logits = (rng.standard_normal((len(rows), VOCAB)) * (0.5 + turn / 4)).astype(np.float32)
        wanted, before = sample(list(logits), rows), logits.copy()
        assert drawn(logits, [state.draw() for state in rows]) == wanted
        assert np.array_equal(before, logits), "Drawing changed the logits."
        for state, token in zip(rows, wanted, strict=True):
            assert token is not None
            state.accept(token)


@pytest.mark.parametrize("drawn", [by_kernels, by_torch])
def test_equal_logits_at_a_border(drawn: Drawn) -> None:
    """Of equal logits top-k keeps all, top-p those of the lowest ids, as the runtime does."""
    rng = np.random.default_rng(5)
    params: list[dict[str, Any]] = [{"top_k": 3}, {"top_p": 0.3}, {"top_p": 0.55, "top_k": 40}, {"min_p": 0.5}]
    for seed in range(60):
        logits = rng.integers(0, 4, (len(params), 64)).astype(np.float32)
        rows = [SamplingState(SamplingParams(seed=seed, temperature=1.0, **each), []) for each in params]
        assert drawn(logits, [state.draw() for state in rows]) == sample(list(logits), rows)


@pytest.mark.parametrize("name", [name for name in library.names()[:-1] if library.runs(name)])
def test_every_instruction_set_draws_the_same(name: str) -> None:
    """The bits of plain C++, so that a request gets the same tokens on another processor."""
    rng, rows = np.random.default_rng(3), states()
    for _ in range(10):
        logits = list((rng.standard_normal((len(rows), VOCAB)) * 3).astype(np.float32))
        draws = [state.draw() for state in rows]
        assert np.array_equal(CpuDraws(name).draw(logits, draws), CpuDraws("scalar").draw(logits, draws))
        for state in rows:
            state.accept(int(rng.integers(VOCAB)))

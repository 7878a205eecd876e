"""Tokens that the library draws are those of the contract's formula; ``tests/test_draws_agree.py`` compares them with the runtime's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from llmasos_engine.sampler import SamplingState
from llmasos_hookspecs import Draw, LLMasOSError, SamplingParams
from llmasos_hookspecs.testing.drawing import acceptable_tokens, example_draws
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.drawing import CpuDraws

SETS = [name for name in library.names() if library.runs(name)]


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
    for row in (np.zeros(8), np.zeros(16, np.float32)[::2], np.zeros((1, 8), np.float32)):
        with pytest.raises(ValueError, match="contiguous float32"):
            CpuDraws().draw([row], [draw])
    wide = np.zeros((2, 16), np.float32)
    for rows in (np.zeros((1, 8)), wide[:, ::2], wide[:, :8], wide[:, None]):
        with pytest.raises(ValueError, match="contiguous float32"):
            CpuDraws().draw(rows, [draw] * len(rows))
    for none in ([], np.zeros((0, 8), np.float32)):
        assert CpuDraws().draw(none, []).tolist() == []


def test_rows_of_one_array() -> None:
    """They are drawn from as arrays of their own are, and may be read-only."""
    draws = list(example_draws(700))
    logits = np.random.default_rng(2).standard_normal((len(draws), 700), np.float32)
    expected = CpuDraws().draw(list(logits), draws)
    logits.flags.writeable = False
    assert np.array_equal(CpuDraws().draw(logits, draws), expected)
    assert np.array_equal(CpuDraws().draw(list(logits), draws), expected)
    with pytest.raises(ValueError, match=f"{len(draws)} rows of logits, and 1 choices"):
        CpuDraws().draw(logits, draws[:1])


def test_a_nucleus_of_many_tokens() -> None:
    """Of equal logits the first ones, as many as it takes, and the interval of each is as wide as any other's."""
    vocab, count = 3000, 500
    params = SamplingParams(temperature=1.0, top_p=0.5)
    nothing = np.zeros(0, np.int64)
    points = (np.arange(count) + 0.5) / count
    draws = [Draw(params=params, point=point, seen=nothing, generated=nothing, counts=np.zeros(0, np.float32)) for point in points]
    logits = np.zeros((count, vocab), np.float32)
    logits[:, ::2] = -2.0  # so what stays are some of the others
    tokens = CpuDraws().draw(logits, draws)
    weights = np.exp(logits[0].astype(np.float64))
    size = int(np.ceil(0.5 * weights.sum()))
    assert np.abs(tokens - (2 * np.floor(points * size) + 1)).max() <= 2, "A token further than the next one is no rounding."


@pytest.mark.parametrize("wrong", [-1, 16])
def test_ids_outside_the_vocabulary(wrong: int) -> None:
    """Nothing is read or written there: a clear error."""
    params = SamplingParams(temperature=1.0, repetition_penalty=2.0)
    nothing = np.zeros(0, np.int64)
    draw = Draw(params=params, point=0.5, seen=np.array([3, wrong]), generated=nothing, counts=np.zeros(0, np.float32))
    with pytest.raises(LLMasOSError, match="index"):
        CpuDraws().draw([np.zeros(16, np.float32)], [draw])


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_the_rows(threads: int) -> None:
    """Each row gets the token that one thread draws, rows that cannot be drawn among them."""
    rows = list(np.random.default_rng(7).standard_normal((41, 2000), np.float32) * 3)
    rows[3] = np.full(2000, np.nan, np.float32)
    draws = [draw for draw, _ in zip(itertools.cycle(example_draws(2000)), rows, strict=False)]
    expected = CpuDraws().draw(rows, draws)
    assert expected[3] == -1
    for _ in range(50):  # whichever thread comes first
        assert np.array_equal(CpuDraws().draw(rows, draws, threads=threads), expected)

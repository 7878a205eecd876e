"""Tokens drawn where the logits lie; that they are the runtime's own is tested in ``tests/test_draws_agree.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llmasos_backend_torch.drawing import draw_tokens
from llmasos_engine.sampler import SamplingState
from llmasos_hookspecs import Engine, EngineLimits, RequestError, Row, SamplingParams
from llmasos_hookspecs.testing.drawing import example_draws


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Each row alone gives the token that it gives in the batch; a row of NaN and a row of minus infinity give -1 and disturb nobody."""
    draws = list(example_draws(300))
    logits = torch.randn(len(draws), 300, generator=torch.Generator().manual_seed(2))
    logits[4], logits[9] = torch.nan, -torch.inf
    together = draw_tokens(logits, draws)
    assert together[4] == together[9] == -1
    assert together.tolist() == [int(draw_tokens(logits[place : place + 1], [draw])) for place, draw in enumerate(draws)]


def test_points_at_the_very_ends() -> None:
    """The least and the greatest point draw the first and the last token that is left, never one that was cut."""
    draw = SamplingState(SamplingParams(temperature=1.0), []).draw()
    for total in (1.0, 3.0, 1.0 + 2**-40):
        logits = torch.log(torch.tensor([[0.0, total / 3, 0.0, total / 3, total / 3, 0.0]]))
        for point, token in ((0.0, 1), (1 - 2.0**-53, 4)):
            assert int(draw_tokens(logits, [attrs.evolve(draw, point=point)])) == token


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_every_way_of_computing_draws(
    name: str, saved: Callable[[str], tuple[PreTrainedModel, Path]], load_engine: Callable[..., Engine]
) -> None:
    """The fused forward, transformers over slots and a model without a KV cache draw from the logits that they give."""
    folder = saved(name)[1]
    limits = EngineLimits(threads=1, max_sequences=3)
    engine = load_engine(folder, sampling="device", limits=limits)
    assert "sampling" in engine.info.features
    prompts = [[3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13, 14]]
    slots = [engine.open() for _ in prompts]
    for draw in list(example_draws(160))[::3]:
        rows = [Row(slot, prompt, 0) for slot, prompt in zip(slots, prompts, strict=True)]
        logits = [np.array(found) for found in engine.step(rows)]
        for slot in slots:
            engine.truncate(slot, 0)
        drawn = engine.step(
            [Row(slots[0], prompts[0], 0, "none"), Row(slots[1], prompts[1], 0, draw=draw), Row(slots[2], prompts[2], 0, "all")]
        )
        assert drawn[0].shape == (0, 160)
        assert drawn[1].tolist() == draw_tokens(torch.from_numpy(logits[1]), [draw]).tolist()
        np.testing.assert_allclose(drawn[2][-1:], logits[2], atol=1e-4)
        for slot in slots:
            engine.truncate(slot, 0)


def test_who_draws_is_an_option(saved: Callable[[str], tuple[PreTrainedModel, Path]], load_engine: Callable[..., Engine]) -> None:
    """On a CPU the runtime draws unless told otherwise; a draw for more than the last token is refused."""
    folder = saved("llama")[1]
    assert "sampling" not in load_engine(folder).info.features
    assert "sampling" not in load_engine(folder, sampling="host").info.features
    engine = load_engine(folder, sampling="device")
    draw = next(iter(example_draws(160)))
    slot = engine.open()
    with pytest.raises(RequestError, match="after the last"):
        engine.step([Row(slot, [1, 2], 0, "all", draw=draw)])

"""Models whose rotary embeddings have other frequencies past a length are what transformers computes on both sides of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel

from llmasos_backend_torch.kv_cache import LayerCache
from llmasos_hookspecs import CapacityExceeded, Engine, Row

Saved = Callable[[str], tuple[PreTrainedModel, Path]]
Load = Callable[..., Engine]

SWITCH = 32
TOKENS = [int(token) for token in np.random.default_rng(5).integers(3, 160, 60)]


@pytest.fixture
def engine(saved: Saved, load_engine: Load) -> Engine:
    found = load_engine(saved("phi3-longrope")[1], dtype="float32")
    assert "kv_cache" in found.info.features
    return found


@pytest.fixture
def expected(saved: Saved) -> Callable[[list[int]], npt.NDArray[np.float32]]:
    model = saved("phi3-longrope")[0]

    def compute(tokens: list[int]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()

    return compute


def close(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> None:
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 2e-6


def test_the_two_sides_differ(expected: Callable[..., Any]) -> None:
    """Else the other tests prove nothing: the same first tokens have other logits in a longer sequence."""
    short, long = expected(TOKENS[:SWITCH]), expected(TOKENS[: SWITCH + 1])[:SWITCH]
    assert np.linalg.norm(short - long) / np.linalg.norm(short) > 0.1


def test_a_text_that_grows_past_the_length_is_computed_again_there(engine: Engine, expected: Callable[..., Any]) -> None:
    """Token by token, each against the sequence so far; and back again where it is truncated."""
    slot = engine.open()
    engine.step([Row(slot, TOKENS[:28], 0, "none")])
    for at in range(28, 40):
        close(engine.step([Row(slot, [TOKENS[at]], at, generated=True)])[0], expected(TOKENS[: at + 1])[at:])
    engine.truncate(slot, 20)
    close(engine.step([Row(slot, TOKENS[20:25], 20, "all")])[0], expected(TOKENS[:25])[20:])


def test_a_prompt_in_chunks_is_what_it_is_in_one_piece_where_its_length_is_known(engine: Engine, expected: Callable[..., Any]) -> None:
    want, slot = expected(TOKENS), engine.open()
    for begin, end in ((0, 11), (11, 30), (30, 32), (32, 60)):
        close(engine.step([Row(slot, TOKENS[begin:end], begin, "all", known=60)])[0], want[begin:end])


def test_a_fork_and_its_neighbours_keep_their_own_side(engine: Engine, expected: Callable[..., Any]) -> None:
    """A batch of a long sequence, a short one, and a copy that crosses over."""
    long, short = engine.open(), engine.open()
    engine.step([Row(long, TOKENS[:50], 0, "none"), Row(short, TOKENS[:30], 0, "none")])
    copy = engine.fork(short)
    got = engine.step([Row(copy, TOKENS[30:36], 30, "all"), Row(short, [7], 30), Row(long, [9], 50)])
    close(got[0], expected(TOKENS[:36])[30:])
    close(got[1], expected([*TOKENS[:30], 7])[-1:])
    close(got[2], expected([*TOKENS[:50], 9])[-1:])
    close(engine.step([Row(short, [8], 31)])[0], expected([*TOKENS[:30], 7, 8])[-1:])


def test_drafts_on_both_sides_of_the_length_are_each_computed_for_their_own(engine: Engine, expected: Callable[..., Any]) -> None:
    """A draft may be refused, and then the sequence is not past the length."""
    slot = engine.open()
    engine.step([Row(slot, TOKENS[:30], 0, "none")])
    got = engine.step([Row(slot, TOKENS[30:35], 30, "all", generated=True, known=31)])[0]
    assert got.shape[0] == 5
    for at in range(5):
        close(got[at : at + 1], expected(TOKENS[: 31 + at])[-1:])


def test_a_step_that_fails_at_the_length_can_be_taken_again(
    engine: Engine, expected: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed again in part is not used."""
    slot = engine.open()
    engine.step([Row(slot, TOKENS[:30], 0, "none")])
    write = LayerCache.write
    calls = []

    def fail(self: LayerCache, *given: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        write(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(LayerCache, "write", fail)
        with pytest.raises(CapacityExceeded):
            engine.step([Row(slot, TOKENS[30:40], 30)])
    close(engine.step([Row(slot, TOKENS[30:31], 30)])[0], expected(TOKENS[:31])[30:])
    close(engine.step([Row(slot, TOKENS[31:40], 31, "all")])[0], expected(TOKENS[:40])[31:])

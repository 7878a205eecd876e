"""Blocks of keys and values: who holds them, who shares them, and what a step that fails leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmasos_backend_openvino.attention import BLOCK
from llmasos_backend_openvino.session import Session
from llmasos_hookspecs import CapacityExceeded, EngineFailed, ResourceError, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import tiny_checkpoint

CHECKPOINT = tiny_checkpoint("llama")
TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 256, 3 * BLOCK)]
#: Bytes of one block: keys and values of 2 layers with 2 heads of 16 floats.
BLOCK_BYTES = BLOCK * 2 * 2 * 2 * 16 * 4


def fed(engine: Any, slot: int, tokens: list[int], at: int = 0) -> Any:
    return np.array(engine.step([Row(slot, tokens, at, "all")])[0])


def expected(tokens: list[int]) -> Any:
    return ReferenceDecoder(CHECKPOINT).logits(tokens)


def close_to(got: Any, want: Any) -> bool:
    return bool(np.linalg.norm(got - want) <= 2e-6 * np.linalg.norm(want))


def test_a_fork_takes_no_block_until_it_writes_into_a_shared_one(start: Any) -> None:
    """Full blocks stay shared; the last one is copied by whichever side writes first, and the other keeps it."""
    engine = start(CHECKPOINT, context_length=128)
    whole = engine._pool.free
    slot = engine.open()
    fed(engine, slot, TOKENS[: BLOCK + 8])
    fork = engine.fork(slot)
    assert engine._pool.free == whole - 2
    other = TOKENS[: BLOCK + 8] + TOKENS[:1]
    assert close_to(fed(engine, fork, other[-1:], BLOCK + 8), expected(other)[-1:])
    assert engine._pool.free == whole - 3
    assert close_to(fed(engine, slot, TOKENS[BLOCK + 8 : BLOCK + 10], BLOCK + 8), expected(TOKENS[: BLOCK + 10])[-2:])
    assert engine._pool.free == whole - 3
    engine.close(slot)
    assert engine._pool.free == whole - 2
    assert close_to(fed(engine, fork, TOKENS[:1], BLOCK + 9), expected([*other, TOKENS[0]])[-1:])
    engine.close(fork)
    assert engine._pool.free == whole


def test_writing_over_the_middle_of_shared_blocks_leaves_the_fork_alone(start: Any) -> None:
    """A slot that was cut back into a block that its fork still holds gets one of its own."""
    engine = start(CHECKPOINT, context_length=128)
    slot = engine.open()
    fed(engine, slot, TOKENS[:70])
    fork = engine.fork(slot)
    engine.truncate(slot, 20)
    changed = TOKENS[:20] + TOKENS[40:60]
    assert close_to(fed(engine, slot, changed[20:], 20), expected(changed)[20:])
    assert close_to(fed(engine, fork, TOKENS[70:72], 70), expected(TOKENS[:72])[70:])


def test_truncate_and_close_give_blocks_back(start: Any) -> None:
    """Only the blocks of the tokens that stay are held."""
    engine = start(CHECKPOINT, context_length=128)
    whole = engine._pool.free
    slot = engine.open()
    fed(engine, slot, TOKENS)
    assert engine._pool.free == whole - 3
    for length, held in ((BLOCK + 1, 2), (BLOCK, 1), (0, 0)):
        engine.truncate(slot, length)
        assert engine._pool.free == whole - held
    engine.close(slot)
    assert engine._pool.free == whole


def test_memory_bounds_what_all_slots_hold_together(start: Any) -> None:
    """A step that the pool has no blocks for takes none; once another slot is closed it can be tried again."""
    weights = start(CHECKPOINT).info.weight_bytes
    engine = start(CHECKPOINT, memory=weights + 5 * BLOCK_BYTES)
    assert engine.info.context_length == 5 * BLOCK
    one, two, three = engine.open(), engine.open(), engine.open()
    fed(engine, one, TOKENS[: 2 * BLOCK])
    fed(engine, two, TOKENS[:BLOCK])
    with pytest.raises(CapacityExceeded, match="All 5 blocks of 32 tokens"):
        engine.step([Row(two, TOKENS[BLOCK : BLOCK + 1], BLOCK), Row(three, TOKENS[: BLOCK + 1], 0)])
    assert engine._pool.free == 2
    engine.close(one)
    found = [np.array(each) for each in engine.step([Row(two, TOKENS[BLOCK : BLOCK + 1], BLOCK), Row(three, TOKENS[: BLOCK + 1], 0)])]
    assert all(close_to(each, expected(TOKENS[: BLOCK + 1])[-1:]) for each in found)


def test_too_little_memory_is_said_before_anything_is_compiled(start: Any) -> None:
    """A block for every sequence, or the context that was asked for, must fit beside the weights."""
    weights = start(CHECKPOINT).info.weight_bytes
    for limits in ({"memory": weights + 3 * BLOCK_BYTES}, {"memory": weights + 5 * BLOCK_BYTES, "context_length": 6 * BLOCK}):
        with pytest.raises(ResourceError, match="The memory limit of"):
            start(CHECKPOINT, **limits)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("bad_alloc in a node"), CapacityExceeded),
        (MemoryError(), CapacityExceeded),
        (RuntimeError("unexpected"), EngineFailed),
    ],
    ids=["alloc", "memory", "other"],
)
def test_a_step_that_fails_leaves_every_slot_as_it_was(
    start: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    """OpenVINO fails after it has written keys and values: no block is lost, and the slots go on from where they stood."""
    engine = start(CHECKPOINT, context_length=128)
    slot = engine.open()
    fed(engine, slot, TOKENS[:20])
    fork, free = engine.fork(slot), engine._pool.free
    request = engine._session._request

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(request, name)

        def infer(self) -> None:
            request.infer()
            raise error

    monkeypatch.setattr(engine._session, "_request", Failing())
    with pytest.raises(raised):
        engine.step([Row(slot, TOKENS[50:90], 20)])
    monkeypatch.undo()
    assert engine._pool.free in (free, free - 1)  # the block that both held may have been copied before
    assert close_to(fed(engine, slot, TOKENS[20:40], 20), expected(TOKENS[:40])[20:])
    assert close_to(fed(engine, fork, TOKENS[20:40], 20), expected(TOKENS[:40])[20:])


def test_what_a_block_held_before_reaches_nobody(start: Any) -> None:
    """NaN in the places of a block that hold no token of the sequence change no bit."""
    engine = start(CHECKPOINT, context_length=128)
    slot = engine.open()
    clean = [fed(engine, slot, TOKENS[:40]), fed(engine, slot, TOKENS[40:41], 40)]
    engine.truncate(slot, 0)
    for array in engine._pool.memory.arrays:
        array[:] = 0x7FC00000  # NaN
    assert all(
        np.array_equal(*pair) for pair in zip(clean, [fed(engine, slot, TOKENS[:40]), fed(engine, slot, TOKENS[40:41], 40)], strict=True)
    )


def test_one_call_computes_prompts_and_decoded_tokens_of_all_rows(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is as many calls as its tokens need at ``prefill_chunk`` each, a row's pieces in order."""
    engine = start(CHECKPOINT, {"prefill_chunk": 32}, context_length=128)
    calls: list[list[int]] = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, pieces: calls.append([len(p.tokens) for p in pieces]) or run(self, pieces))
    slots = [engine.open() for _ in range(3)]
    engine.step([Row(slots[0], TOKENS[:9], 0, "none"), Row(slots[1], TOKENS[:20], 0, "none")])
    rows = [Row(slots[0], TOKENS[9:10], 9), Row(slots[1], TOKENS[20:60], 20, "all"), Row(slots[2], TOKENS[:12], 0)]
    found = [np.array(each) for each in engine.step(rows)]
    assert calls == [[9, 20], [1, 31], [9, 12]]
    assert close_to(found[0], expected(TOKENS[:10])[-1:])
    assert close_to(found[1], expected(TOKENS[:60])[20:])
    assert close_to(found[2], expected(TOKENS[:12])[-1:])


def test_a_row_hardly_depends_on_its_company(start: Any) -> None:
    """The same tokens alone and beside seven others differ by rounding alone, so the engine does not promise ``drafts``."""
    engine = start(CHECKPOINT, max_sequences=8, context_length=128)
    assert "drafts" not in engine.info.features
    slots = [engine.open() for _ in range(8)]
    engine.step([Row(slot, TOKENS[at : at + 20 + at], 0, "none") for at, slot in enumerate(slots)])
    together = [np.array(each) for each in engine.step([Row(slot, TOKENS[-1:], 20 + at) for at, slot in enumerate(slots)])]
    for at, slot in enumerate(slots):
        engine.truncate(slot, 20 + at)
        assert close_to(fed(engine, slot, TOKENS[-1:], 20 + at), together[at])

"""The engine contract: capacity, wrong calls, failures, and memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_hookspecs import CapacityExceeded, Engine, EngineFailed, ResourceError, Row

Start = Callable[..., OnnxEngine]


def test_is_an_engine_and_describes_itself(checkpoints, start: Start) -> None:
    engine = start(checkpoints["llama"], max_sequences=3, context_length=50)
    assert isinstance(engine, Engine)
    info = engine.info
    assert (info.vocab_size, info.context_length, info.max_sequences) == (101, 50, 3)
    assert info.kv_bytes_per_token == 2 * 3 * 2 * 16 * 4
    parameters = sum(tensor.size for tensor in checkpoints["llama"].tensors.values())
    assert info.weight_bytes >= parameters * 4
    assert info.dtype == "float32"


def test_no_more_slots_than_max_sequences(checkpoints, start: Start) -> None:
    engine = start(checkpoints["llama"], max_sequences=2)
    first, _ = engine.open(), engine.open()
    with pytest.raises(CapacityExceeded, match="All 2 slots"):
        engine.open()
    with pytest.raises(CapacityExceeded, match="All 2 slots"):
        engine.fork(first)
    engine.close(first)
    assert engine.open() not in (first,)


def test_a_step_past_the_context_leaves_every_slot_as_it_was(checkpoints, start: Start) -> None:
    engine = start(checkpoints["llama"], context_length=16)
    full, other = engine.open(), engine.open()
    engine.step([Row(full, range(16), 0), Row(other, range(8), 0)])
    with pytest.raises(CapacityExceeded, match="context length of 16"):
        engine.step([Row(other, [8], 8), Row(full, [1], 16)])
    result = engine.step([Row(other, [8], 8)])[0][0]
    np.testing.assert_allclose(result, checkpoints["llama"].reference(range(9))[-1], rtol=2e-4, atol=2e-4)


def test_the_memory_limit_bounds_the_tokens_of_all_slots(checkpoints, start: Start) -> None:
    room = start(checkpoints["llama"]).info
    memory = room.weight_bytes + 40 * room.kv_bytes_per_token
    engine = start(checkpoints["llama"], memory=memory)
    assert engine.info.context_length == 40
    first, second = engine.open(), engine.open()
    engine.step([Row(first, range(30), 0)])
    with pytest.raises(CapacityExceeded, match="memory limit"):
        engine.step([Row(second, range(11), 0)])
    with pytest.raises(CapacityExceeded, match="memory limit"):
        engine.fork(first)
    engine.truncate(first, 29)
    engine.step([Row(second, range(11), 0)])


def test_a_memory_limit_below_the_weights_is_refused(checkpoints, start: Start) -> None:
    with pytest.raises(ResourceError, match="memory limit of 1,000 bytes"):
        start(checkpoints["llama"], memory=1000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda slot: [Row(slot + 9, [1], 0)], "is not open"),
        (lambda slot: [Row(slot, [1], 3)], "holds 4 tokens, and the row says 3"),
        (lambda slot: [Row(slot, [101], 4)], "outside the vocabulary"),
        (lambda slot: [Row(slot, [-1], 4)], "outside the vocabulary"),
        (lambda slot: [Row(slot, [], 4)], "has no tokens"),
        (lambda slot: [Row(slot, [1], 4), Row(slot, [1], 4)], "twice"),
    ],
)
def test_a_wrong_row_is_refused_before_anything_is_computed(checkpoints, start: Start, make, message: str) -> None:
    engine = start(checkpoints["llama"])
    slot = engine.open()
    engine.step([Row(slot, range(4), 0)])
    with pytest.raises(ValueError, match=message):
        engine.step(make(slot))
    assert engine.step([Row(slot, [5], 4)])[0].shape == (1, 101)


def test_truncate_only_shortens(checkpoints, start: Start) -> None:
    engine = start(checkpoints["llama"])
    slot = engine.open()
    engine.step([Row(slot, range(4), 0)])
    for length in (5, -1):
        with pytest.raises(ValueError, match="holds 4 tokens"):
            engine.truncate(slot, length)


def test_a_failed_step_can_be_tried_again(checkpoints, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(checkpoints["llama"])
    first, second = engine.open(), engine.open()
    engine.step([Row(first, range(6), 0), Row(second, range(7), 0)])
    rows = [Row(first, [9], 6), Row(second, range(10, 14), 7)]
    with monkeypatch.context() as patch:
        patch.setattr(engine._session, "decode", _no_memory)  # after the prefill of the second row has written its keys
        with pytest.raises(CapacityExceeded):
            engine.step(rows)
    engine.truncate(first, 6)
    engine.truncate(second, 7)
    results = engine.step(rows)
    np.testing.assert_allclose(results[0][0], checkpoints["llama"].reference([*range(6), 9])[-1], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(results[1][0], checkpoints["llama"].reference([*range(7), *range(10, 14)])[-1], rtol=2e-4, atol=2e-4)


def _no_memory(*arguments: object) -> None:
    raise CapacityExceeded("No memory.")


def test_nothing_runs_after_shutdown(checkpoints, start: Start) -> None:
    engine = start(checkpoints["llama"])
    slot = engine.open()
    engine.shutdown()
    engine.shutdown()
    for call in (engine.open, lambda: engine.step([Row(slot, [1], 0)]), lambda: engine.fork(slot)):
        with pytest.raises(EngineFailed, match="load the model again"):
            call()


def test_memory_does_not_grow_with_sequences_and_engines(checkpoints, start: Start) -> None:
    process = psutil.Process(os.getpid())

    def use() -> None:
        engine = start(checkpoints["llama"], max_sequences=2)
        for length in range(2, 100, 12):
            slot = engine.open()
            engine.step([Row(slot, [1] * length, 0)])
            engine.step([Row(slot, [1], length)])
            engine.close(engine.fork(slot))
            engine.close(slot)
        engine.shutdown()

    for _ in range(5):
        use()
    before = process.memory_info().rss
    for _ in range(30):
        use()
    assert process.memory_info().rss - before < 8 << 20


def test_a_closed_slot_gives_its_memory_back(tmp_path: Path, checkpoints, start: Start) -> None:
    checkpoint = checkpoints["llama"]
    long = type(checkpoint)({**checkpoint.config, "max_position_embeddings": 1 << 17}, checkpoint.tensors)
    engine = start(long, Options(precision="fp32", prefill_chunk=64), max_sequences=2)
    process = psutil.Process(os.getpid())
    slot = engine.open()
    engine.step([Row(slot, [1] * 64, 0, "none")])
    engine.step([Row(slot, [1], 64)])
    before = process.memory_info().rss
    tokens = 6144
    other = engine.fork(slot)
    for at in range(65, tokens, 64):
        engine.step([Row(other, [1] * 64, at, "none")])
    held = process.memory_info().rss - before
    assert held > tokens * engine.info.kv_bytes_per_token * 0.9
    engine.close(other)
    assert process.memory_info().rss - before < held / 2


def test_steps_that_mix_prompts_and_generated_tokens_of_any_rows(checkpoints, start: Start) -> None:
    """Rows come and go, and each step takes some of them: none loses what it holds to the filler of another."""
    checkpoint = checkpoints["llama"]
    engine = start(checkpoint, max_sequences=6, context_length=64)
    random = np.random.default_rng(3)
    texts: dict[int, list[int]] = {}
    for _ in range(50):
        for slot in [slot for slot, text in texts.items() if len(text) > 48 or random.random() < 0.1]:
            engine.close(slot)
            del texts[slot]
        while len(texts) < 6:
            texts[engine.open()] = []
        rows = []
        for slot, text in texts.items():
            if random.random() < 0.3:
                continue
            new = random.integers(0, 101, int(random.integers(2, 9)) if not text or random.random() < 0.3 else 1).tolist()
            rows.append(Row(slot, new, len(text)))
            text.extend(new)
        if not rows:
            continue
        chosen = int(random.integers(len(rows)))
        logits = engine.step(rows)[chosen][-1]
        np.testing.assert_allclose(logits, checkpoint.reference(texts[rows[chosen].slot])[-1], rtol=1e-3, atol=1e-3)

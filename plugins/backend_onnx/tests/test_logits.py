"""Logits equal those of transformers on every path through the engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_hookspecs import Row

TOKENS = np.random.default_rng(3).integers(0, 101, 40).tolist()
OTHERS = np.random.default_rng(4).integers(0, 101, 40).tolist()
#: float32 sums in another order.
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def prefill(engine: OnnxEngine, tokens: list[int], *, chunk: int = 1000) -> tuple[int, np.ndarray]:
    slot = engine.open()
    parts = [engine.step([Row(slot, tokens[at : at + chunk], at, "all")])[0].copy() for at in range(0, len(tokens), chunk)]
    return slot, np.concatenate(parts)


def test_one_shot_prefill(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    _, logits = prefill(start(checkpoint), TOKENS)
    np.testing.assert_allclose(logits, checkpoint.reference(TOKENS), **CLOSE)


def test_chunked_prefill(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    """In chunks of 1, 7 and 16 tokens."""
    engine, reference = start(checkpoint), checkpoint.reference(TOKENS)
    whole_slot, whole = prefill(engine, TOKENS)
    engine.close(whole_slot)
    for chunk in (1, 7, 16):
        slot, logits = prefill(engine, TOKENS, chunk=chunk)
        np.testing.assert_allclose(logits, reference, **CLOSE)
        np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-5)
        engine.close(slot)


def test_the_engine_chunks_long_prompts_itself(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    engine = start(checkpoint, Options(precision="fp32", prefill_chunk=16))
    _, whole = prefill(start(checkpoint), TOKENS)
    _, logits = prefill(engine, TOKENS)
    np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-5)
    slot = engine.open()
    np.testing.assert_array_equal(engine.step([Row(slot, TOKENS, 0)])[0][0], logits[-1])


def test_a_ragged_batch_of_decodes_with_a_prefill_in_the_same_step(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    engine = start(checkpoint)
    lengths = [5, 17, 30]
    slots = [prefill(engine, TOKENS[:length])[0] for length in lengths]
    newcomer = engine.open()
    rows = [Row(slot, [TOKENS[length]], length) for slot, length in zip(slots, lengths, strict=True)]
    results = engine.step([rows[0], Row(newcomer, OTHERS[:12], 0, "all"), *rows[1:]])
    reference = checkpoint.reference(TOKENS)
    for result, length in zip([results[0], *results[2:]], lengths, strict=True):
        np.testing.assert_allclose(result, reference[length : length + 1], **CLOSE)
    np.testing.assert_allclose(results[1], checkpoint.reference(OTHERS)[:12], **CLOSE)


def test_after_truncate(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    engine = start(checkpoint)
    slot, _ = prefill(engine, OTHERS[:11] + TOKENS[:20])
    engine.truncate(slot, 11)
    logits = engine.step([Row(slot, OTHERS[11:], 11, "all")])[0]
    np.testing.assert_allclose(logits, checkpoint.reference(OTHERS)[11:], **CLOSE)


def test_after_fork_both_sequences_go_their_own_way(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    engine = start(checkpoint)
    slot, _ = prefill(engine, TOKENS[:20])
    other = engine.fork(slot)
    for step in range(5):
        first, second = engine.step([Row(slot, [TOKENS[20 + step]], 20 + step), Row(other, [OTHERS[20 + step]], 20 + step)])
    np.testing.assert_allclose(first[0], checkpoint.reference(TOKENS[:25])[-1], **CLOSE)
    np.testing.assert_allclose(second[0], checkpoint.reference(TOKENS[:20] + OTHERS[20:25])[-1], **CLOSE)


def test_with_a_hole_between_rows(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    engine = start(checkpoint)
    slots = [prefill(engine, TOKENS[: 10 + index])[0] for index in range(4)]
    engine.close(slots[1])
    kept = [0, 2, 3]
    reference = checkpoint.reference(TOKENS)
    for step in range(12):
        results = engine.step([Row(slots[index], [TOKENS[10 + index + step]], 10 + index + step) for index in kept])
        for index, result in zip(kept, results, strict=True):
            np.testing.assert_allclose(result[0], reference[10 + index + step], **CLOSE)


def test_a_row_in_a_batch_is_bitwise_identical_to_the_row_alone(checkpoint, start: Callable[..., OnnxEngine]) -> None:
    engine = start(checkpoint)
    lengths = [3, 21, 8, 13]
    slots = [prefill(engine, TOKENS[:length])[0] for length in lengths]
    rows = [Row(slot, [OTHERS[index]], lengths[index]) for index, slot in enumerate(slots)]
    together = [result.copy() for result in engine.step(rows)]
    for slot, length in zip(slots, lengths, strict=True):
        engine.truncate(slot, length)
    for row, expected in zip(rows, together, strict=True):
        np.testing.assert_array_equal(engine.step([row])[0], expected)


@pytest.mark.parametrize("want", ["last", "all", "none"])
def test_want_says_how_many_logits_come_back(checkpoints, start: Callable[..., OnnxEngine], want: str) -> None:
    engine = start(checkpoints["llama"])
    slot, other = engine.open(), engine.open()
    expected = checkpoints["llama"].reference(TOKENS[:9])
    prompt, single = engine.step([Row(slot, TOKENS[:8], 0, want), Row(other, TOKENS[:1], 0, want)])
    counts = {"last": (1, 1), "all": (8, 1), "none": (0, 0)}[want]
    assert (prompt.shape, single.shape) == ((counts[0], 101), (counts[1], 101))
    np.testing.assert_allclose(prompt, expected[8 - counts[0] : 8], **CLOSE)
    # Whatever was wanted, the keys and values are there.
    np.testing.assert_allclose(engine.step([Row(slot, [TOKENS[8]], 8)])[0][0], expected[8], **CLOSE)

"""Perplexity, divergence, speed and size are what their definitions say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs import AccelerationError, CapacityExceeded, EngineLimits, Row
from llmasos_hookspecs.testing import ReferenceDecoder, ReferenceEngine, quantize, tiny_checkpoint
from llmasos_suite_quality import speed
from llmasos_suite_quality.divergence import measure_quality
from llmasos_suite_quality.size import measure_size

WINDOWS = np.random.default_rng(4).integers(0, 256, (3, 150)).astype(np.int32)


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def test_the_figures_are_those_of_whole_passes() -> None:
    """A window is computed in several steps; the figures are those of one pass over it, by the textbook."""
    base, other = tiny_checkpoint("llama"), tiny_checkpoint("llama", seed=1)
    other = attrs.evolve(other, tensors={name: 0.9 * base.tensor(name) + 0.1 * other.tensor(name) for name in base.names()})
    found = measure_quality(ReferenceEngine(other), WINDOWS, reference=ReferenceEngine(base))
    p, q = ([log_probabilities(ReferenceDecoder(each).logits(window.tolist())) for window in WINDOWS] for each in (base, other))
    losses = [-float(np.mean(rows[np.arange(149), window[1:]])) for rows, window in zip(q, WINDOWS, strict=True)]
    divergences = np.stack([(np.exp(a) * (a - b)).sum(axis=1) for a, b in zip(p, q, strict=True)])
    assert found.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert found.perplexity_error == pytest.approx(np.exp(np.mean(losses)) * np.std(losses, ddof=1) / np.sqrt(3), rel=1e-3)
    assert found.mean_kl == pytest.approx(divergences.mean(), rel=1e-4)
    assert found.mean_kl_error == pytest.approx(np.std(divergences.mean(axis=1), ddof=1) / np.sqrt(3), rel=1e-3)
    assert found.p99_kl == pytest.approx(np.quantile(divergences, 0.99), rel=1e-3)
    assert found.top1 == pytest.approx(np.mean([a.argmax(1) == b.argmax(1) for a, b in zip(p, q, strict=True)]))
    assert found.tokens == 450


class NarrowEngine(ReferenceEngine):
    """Refuses steps of more than 20 tokens, as an engine short of memory does."""

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        if sum(len(row.tokens) for row in rows) > 20:
            raise CapacityExceeded("Too many tokens.")
        return super().step(rows)


def test_an_engine_that_takes_small_steps_only_gives_the_same_figures() -> None:
    checkpoint = tiny_checkpoint("llama")
    narrow, wide = (kind(checkpoint) for kind in (NarrowEngine, ReferenceEngine))
    reference = ReferenceEngine(tiny_checkpoint("llama", seed=1))
    found = measure_quality(narrow, WINDOWS, reference=reference)
    expected = measure_quality(wide, WINDOWS, reference=reference)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert found.mean_kl == pytest.approx(expected.mean_kl, rel=1e-5)
    assert speed.measure_speed(narrow, WINDOWS[0], speed.Options(repeats=1)).prefill > 0


def test_windows_that_no_engine_can_hold_are_refused() -> None:
    engine = ReferenceEngine(tiny_checkpoint("llama"), EngineLimits(context_length=64))
    with pytest.raises(AccelerationError, match="ask for shorter windows"):
        measure_quality(engine, WINDOWS, reference=ReferenceEngine(tiny_checkpoint("llama")))


def test_models_with_different_vocabularies_are_not_compared() -> None:
    other = ReferenceEngine(tiny_checkpoint("llama", vocab_size=300))
    with pytest.raises(AccelerationError, match=r"288 tokens .* 300"):
        measure_quality(ReferenceEngine(tiny_checkpoint("llama")), WINDOWS, reference=other)


def test_slots_are_given_back() -> None:
    engine, reference = (ReferenceEngine(tiny_checkpoint("llama"), EngineLimits(max_sequences=1)) for _ in range(2))
    for _ in range(2):
        measure_quality(engine, WINDOWS[:1, :20], reference=reference)
        speed.measure_speed(engine, WINDOWS[0], speed.Options(repeats=1))


def test_the_size_of_matrices_counts_a_tied_head_once(tmp_path: Path) -> None:
    tied, untied = tiny_checkpoint("qwen2", folder=tmp_path / "tied"), tiny_checkpoint("llama", folder=tmp_path / "untied")
    linears = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    for checkpoint in (tied, untied):
        found = measure_size(checkpoint)
        assert found.matrices == 4 * (linears + 288 * 64)
        assert found.matrices_float16 == 2 * (linears + 288 * 64)
        assert found.disk == (checkpoint.path / "model.safetensors").stat().st_size


def test_quantised_matrices_count_as_packed() -> None:
    base = tiny_checkpoint("llama")
    packed = {name: quantize(tensor, 8) if tensor.ndim == 2 else tensor for name, tensor in base.tensors.items()}
    found = measure_size(attrs.evolve(base, tensors=packed, path=Path(__file__)))
    assert found.matrices / found.matrices_float16 == pytest.approx((8 + 16 / 32) / 16)

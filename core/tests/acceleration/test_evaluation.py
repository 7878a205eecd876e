"""Perplexity, divergence, speed and size are what their definitions say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos.evaluation import Corpus, DequantizedCheckpoint, measure_quality, measure_size, measure_speed
from llmasos_hookspecs import AccelerationError, CapacityExceeded, ConfigError, EngineLimits, Row
from llmasos_hookspecs.testing import ByteTokenizer, ReferenceDecoder, ReferenceEngine, quantize, tiny_checkpoint

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


def test_without_a_reference_there_is_perplexity_alone() -> None:
    found = measure_quality(ReferenceEngine(tiny_checkpoint("llama")), WINDOWS)
    assert (found.mean_kl, found.mean_kl_error, found.p99_kl, found.top1) == (None, None, None, None)


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
    assert measure_speed(narrow, WINDOWS[0]).prefill > 0


def test_windows_that_no_engine_can_hold_are_refused() -> None:
    engine = ReferenceEngine(tiny_checkpoint("llama"), EngineLimits(context_length=64))
    with pytest.raises(AccelerationError, match="ask for shorter windows"):
        measure_quality(engine, WINDOWS)


def test_models_with_different_vocabularies_are_not_compared() -> None:
    other = ReferenceEngine(tiny_checkpoint("llama", vocab_size=300))
    with pytest.raises(AccelerationError, match=r"288 tokens .* 300"):
        measure_quality(ReferenceEngine(tiny_checkpoint("llama")), WINDOWS, reference=other)


def test_slots_are_given_back() -> None:
    engine = ReferenceEngine(tiny_checkpoint("llama"), EngineLimits(max_sequences=1))
    for _ in range(2):
        measure_quality(engine, WINDOWS[:1, :20])
        measure_speed(engine, WINDOWS[0], repeats=1)


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


def test_the_yardstick_is_plain_float32() -> None:
    checkpoint = DequantizedCheckpoint(tiny_checkpoint("llama-q4-minimums"))
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        assert isinstance(tensor, np.ndarray)
        assert tensor.dtype == np.float32
    assert checkpoint.digest != tiny_checkpoint("llama-q4-minimums").digest


def test_a_corpus_is_split_into_texts_that_share_no_paragraph() -> None:
    for corpus in (Corpus.default(), Corpus.from_text("\n\n".join(f"Paragraph {number % 40}." for number in range(400)), name="repeats")):
        parts = [{" ".join(part.split()) for part in text.split("\n\n")} for text in (corpus.calibration, corpus.evaluation)]
        assert not parts[0] & parts[1]
        assert all(parts)
        share = len(corpus.calibration) / (len(corpus.calibration) + len(corpus.evaluation))
        assert 0.6 < share < 0.75


def test_the_default_corpus_is_enough_for_the_protocol() -> None:
    assert Corpus.default().evaluation_windows(ByteTokenizer(), 40, 512).shape == (40, 512)


def test_evaluation_windows_do_not_overlap_and_calibration_windows_are_spread() -> None:
    text = "\n\n".join(f"Paragraph number {number} of many." for number in range(300))
    corpus, tokenizer = Corpus.from_text(text, name="text"), ByteTokenizer()
    windows = corpus.evaluation_windows(tokenizer, 1000, 50)
    assert len(windows) < 1000
    assert corpus.evaluation.startswith(tokenizer.decode(windows.reshape(-1).tolist()))
    spread = corpus.calibration_windows(tokenizer, 5, 50)
    assert corpus.calibration.startswith(tokenizer.decode(spread[0].tolist()))
    assert corpus.calibration.endswith(tokenizer.decode(spread[-1].tolist()))


@pytest.mark.parametrize("text", ["", "one line", "the same\n\nthe  same"])
def test_a_text_that_cannot_be_split_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="fewer than two different paragraphs"):
        Corpus.from_text(text, name="short")


def test_a_text_shorter_than_a_window_is_refused() -> None:
    corpus = Corpus.from_text("One paragraph.\n\nAnother one.", name="short")
    for windows in (corpus.calibration_windows, corpus.evaluation_windows):
        with pytest.raises(ConfigError, match="one window has 512"):
            windows(ByteTokenizer(), 2, 512)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing"):
        with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
            Corpus.from_file(tmp_path / name)

"""Text for calibration and for evaluation share nothing, and the reference is plain float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.reference import DequantizedCheckpoint
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.testing import ByteTokenizer, tiny_checkpoint


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

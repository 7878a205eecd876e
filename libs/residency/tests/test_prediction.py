"""What a model will need is predicted from its headers."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest

from llmasos_hookspecs import DecoderConfig, MemoryEstimate, UnsupportedModel
from llmasos_hookspecs.testing import TinyCheckpoint, tiny_checkpoint
from llmasos_residency.prediction import Need, predict

CHECKPOINT = tiny_checkpoint("llama")
ESTIMATE = MemoryEstimate(weight_bytes=1000, kv_bytes_per_token=7)


def test_the_loaders_estimate_stands_and_the_largest_tensor_is_held_twice_more_in_float32() -> None:
    largest = max(math.prod(CHECKPOINT.shape(name)) for name in CHECKPOINT.names())
    assert predict(CHECKPOINT, ESTIMATE) == Need(
        weights=1000,
        peak=1000 + 8 * largest,
        kv_bytes_per_token=7,
        context_length=CHECKPOINT.decoder.context_length,
        load_seconds=1000 / 200e6,
    )


@pytest.mark.parametrize(("limit", "expected"), [(None, 50), (20, 20), (80, 50)])
def test_the_context_is_the_shorter_of_the_models_and_the_limit(limit: int | None, expected: int) -> None:
    measured = attrs.evolve(predict(CHECKPOINT, ESTIMATE), context_length=50, weights=3, measured=True)
    found = predict(CHECKPOINT, ESTIMATE, context_length=limit, measured=measured)
    assert found == attrs.evolve(measured, context_length=expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf", ".onnx", ".onnx.data", ".onnx_data", ".bin", ".h5"])
def test_without_an_estimate_the_files_of_weights_in_a_folder_are_counted(suffix: str, tmp_path: Path) -> None:
    """In its sub-folders too, and nothing that is no weight."""
    (tmp_path / "onnx").mkdir()
    for name, size in ((f"model{suffix}", 100), (f"onnx/model{suffix}", 20), ("tokenizer.json", 3)):
        (tmp_path / name).write_bytes(bytes(size))
    assert predict(attrs.evolve(CHECKPOINT, path=tmp_path), None).weights == 120


@pytest.mark.parametrize(("suffix", "expected"), [(".data", 107), ("_data", 107), (".json", 100)])
def test_without_an_estimate_a_file_is_counted_with_its_data(suffix: str, expected: int, tmp_path: Path) -> None:
    """ONNX keeps the weights of large models in a file beside it."""
    (tmp_path / "model.onnx").write_bytes(bytes(100))
    (tmp_path / f"model.onnx{suffix}").write_bytes(bytes(7))
    assert predict(attrs.evolve(CHECKPOINT, path=tmp_path / "model.onnx"), None).weights == expected


def test_without_files_two_bytes_a_weight_are_assumed_and_keys_and_values_in_float32(tmp_path: Path) -> None:
    """A tied embedding is held twice."""
    weights = 2 * sum(math.prod(CHECKPOINT.shape(name)) for name in CHECKPOINT.names())
    for tied in (False, True):
        checkpoint = attrs.evolve(CHECKPOINT, path=tmp_path, config={**CHECKPOINT.config, "tie_word_embeddings": tied})
        decoder = checkpoint.decoder
        need = predict(checkpoint, None)
        assert need.weights == weights + (2 * decoder.vocab_size * decoder.hidden_size if tied else 0)
        assert need.kv_bytes_per_token == 8 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim


class OtherFamily(TinyCheckpoint):
    """A model that is no decoder of the Llama family."""

    @property
    def decoder(self) -> DecoderConfig:
        raise UnsupportedModel("no Llama")


def test_a_model_of_another_family_is_predicted_by_its_files_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    need = predict(OtherFamily(config={}, tensors=CHECKPOINT.tensors, path=tmp_path), None)
    assert (need.weights, need.kv_bytes_per_token, need.context_length) == (100, 0, 0)
    unread = predict(OtherFamily(config={}, tensors={}, path=tmp_path), None)
    assert (unread.weights, unread.peak) == (100, 100), "Where no tensor is named, none is known to be held twice."

"""Folders that other tools exported to OpenVINO's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_backend_openvino.exported import context_length_of
from llmasos_hookspecs import CheckpointError, Row, UnsupportedModel
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import tiny_checkpoint

from .exporting import export

TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 256, 70)]


def expected(tokens: list[int]) -> Any:
    return ReferenceDecoder(tiny_checkpoint("llama")).logits(tokens)


def close_to(got: Any, want: Any) -> bool:
    return bool(np.linalg.norm(got - want) <= 3e-6 * np.linalg.norm(want))


def test_an_export_is_computed_exactly_in_pieces_and_beside_others(start: Any, tmp_path: Path) -> None:
    """One step takes a prompt's piece, a decoded token and another prompt; their logits are those of the model alone."""
    engine = start(export(tmp_path / "model"), {"prefill_chunk": 32}, context_length=96)
    assert (engine.info.vocab_size, engine.info.dtype, engine.info.context_length) == (288, "float32", 96)
    one, two = engine.open(), engine.open()
    assert close_to(np.array(engine.step([Row(one, TOKENS[:40], 0, "all"), Row(two, TOKENS[5:9], 0)])[0]), expected(TOKENS[:40]))
    found = [np.array(each) for each in engine.step([Row(two, TOKENS[9:10], 4), Row(one, TOKENS[40:], 40, "all")])]
    assert close_to(found[0], expected(TOKENS[5:10])[-1:])
    assert close_to(found[1], expected(TOKENS)[40:])
    copy = engine.fork(one)
    engine.truncate(copy, 33)
    assert close_to(np.array(engine.step([Row(copy, TOKENS[:3], 33)])[0]), expected(TOKENS[:33] + TOKENS[:3])[-1:])


def test_what_memory_an_export_takes_is_what_its_files_and_blocks_hold(start: Any, tmp_path: Path) -> None:
    """The weights are those of the file; a block is taken of each sequence's tokens alone."""
    checkpoint = export(tmp_path / "model")
    info = start(checkpoint).info
    assert abs(info.weight_bytes - (checkpoint.path / "openvino_model.bin").stat().st_size) < 4096
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin"])
def test_a_damaged_export_is_refused(start: Any, tmp_path: Path, name: str) -> None:
    """A file that is missing or cut short gets a sentence that names it."""
    checkpoint = export(tmp_path / "model")
    path = checkpoint.path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"openvino_model\.xml"):
        start(checkpoint)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"lacks the file {name}"):
        start(checkpoint)


def test_a_link_out_of_the_folder_is_refused(start: Any, tmp_path: Path) -> None:
    """Weights are read from the model's own folder alone."""
    checkpoint = export(tmp_path / "model")
    weights = checkpoint.path / "openvino_model.bin"
    weights.rename(tmp_path / "elsewhere.bin")
    weights.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(CheckpointError, match="leads outside its folder"):
        start(checkpoint)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"capped": True}, "has no PagedAttention for"),
        ({"extra": "token_type_ids"}, "has the input token_type_ids"),
        ({"mixing": True}, "beside another one, otherwise than alone"),
    ],
)
def test_an_export_that_would_be_computed_wrongly_is_refused(start: Any, tmp_path: Path, changes: Any, sentence: str) -> None:
    """Attention of another kind, an input that is not of text, and tokens that read other sequences'."""
    with pytest.raises(UnsupportedModel, match=sentence):
        start(export(tmp_path / "model", **changes))


def test_a_graph_without_a_state_is_refused(start: Any, tmp_path: Path) -> None:
    """An encoder, or an export of another task, says how to export a decoder."""
    from llmasos_backend_openvino.runtime import ops, ov

    checkpoint = export(tmp_path / "model")
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    ov.serialize(ov.Model([ops.result(ops.convert(ids, "f32"))], [ids], "encoder"), checkpoint.path / "openvino_model.xml")
    with pytest.raises(UnsupportedModel, match="text-generation-with-past"):
        start(checkpoint)


@pytest.mark.parametrize(
    ("config", "length", "noted"),
    [
        ({"max_position_embeddings": 64}, 64, 0),
        ({}, 2048, 1),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 32}}, 32, 1),
    ],
    ids=["stated", "not stated", "longrope"],
)
def test_the_context_is_as_long_as_the_graph_is_right(config: Any, length: int, noted: int) -> None:
    """What config.json states; with longrope, what is rotated in one way."""
    found, notes = context_length_of(config)
    assert (found, len(notes)) == (length, noted)

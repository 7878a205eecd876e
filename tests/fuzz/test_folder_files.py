"""Hugging Face folders: safetensors headers, config, manifest, index and tokenizer that are damaged or made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from llmasos.compose.formats import open_model
from llmasos_hookspecs import QuantizedTensor
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

WEIGHTS, MANIFEST, INDEX = "model.safetensors", "llmasos.json", "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole folder of one layer with packed weights, a manifest and a tokenizer."""
    tiny_checkpoint(folder=tmp_path / "base", num_hidden_layers=1)
    base = open_model(tmp_path / "base")
    with CheckpointFolderWriter(base, tmp_path / "model") as writer:
        for name in base.names():
            tensor = np.asarray(base.tensor(name))
            writer.add(name, _rounded(tensor) if "proj" in name else tensor)
    return tmp_path / "model"


def _rounded(weights: np.ndarray, group: int = 32) -> QuantizedTensor:
    blocks = weights.astype(np.float32).reshape(len(weights), -1, group)
    scales = np.abs(blocks).max(axis=-1) / 7
    codes = np.round(blocks / scales[..., None]) + 8
    return QuantizedTensor(codes=codes.reshape(weights.shape).astype(np.uint8), scales=scales, bits=4, group=group)


def test_the_unchanged_folder_is_sound(folder: Path, use) -> None:
    """Without this the tests below could pass on folders that are refused at the first byte."""
    use(folder)
    checkpoint = open_model(folder)
    assert len(checkpoint.names()) == 12
    assert isinstance(checkpoint.tensor("model.layers.0.mlp.up_proj.weight"), QuantizedTensor)
    assert checkpoint.tokenizer().encode("ab")


def test_weights_with_a_damaged_header(folder: Path, use, fuzz, damaged) -> None:
    path = folder / WEIGHTS
    data = path.read_bytes()
    (folder / MANIFEST).unlink()

    def case(changed, contained) -> None:
        path.write_bytes(changed)
        with contained:
            use(folder)

    fuzz(case, damaged(data, head=8 + int.from_bytes(data[:8], "little")), folder=folder, share=1 / 2)


def test_weights_with_a_header_of_any_entries(folder: Path, use, fuzz, values, numbers) -> None:
    """Headers that are JSON: entries with the right keys and any values."""
    path = folder / WEIGHTS
    (folder / MANIFEST).unlink()
    kinds = st.sampled_from(["F32", "F16", "BF16", "I32", "I64", "U8", "F8_E4M3"])
    offsets = st.lists(st.integers(0, 80), min_size=2, max_size=2)
    shapes = st.lists(numbers, max_size=3)
    entries = st.fixed_dictionaries({"dtype": kinds | values, "shape": shapes | values, "data_offsets": offsets | values})
    names = st.sampled_from(["a.weight", "a.weight_packed", "a.weight_scale", "a.weight_shape", "a.weight_zero_point", "__metadata__", ""])

    def case(header, contained) -> None:
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
        with contained:
            use(folder)

    fuzz(case, st.dictionaries(names, entries | values, max_size=4), folder=folder, share=1 / 2)


@pytest.mark.parametrize("name", ["config.json", MANIFEST, "generation_config.json", "tokenizer_config.json", "tokenizer.json", INDEX])
def test_json_files_with_other_values(name: str, folder: Path, use, fuzz, values) -> None:
    """Every key that is read takes every kind of value."""
    path = folder / name
    if name == INDEX:
        (folder / WEIGHTS).rename(folder / SHARD)
        path.write_text(json.dumps({"weight_map": {"model.norm.weight": SHARD, "lm_head.weight": SHARD}}))
    if name != MANIFEST:
        (folder / MANIFEST).unlink()
    found = json.loads(path.read_text()) if path.exists() else {"bos_token": "a", "chat_template": "b"}
    keys = st.sampled_from(_places(found))

    def case(changes, contained) -> None:
        value = json.loads(json.dumps(found))
        for place, new in changes:
            value = _replaced(value, place, new)
        path.write_text(json.dumps(value))
        with contained:
            use(folder)

    fuzz(case, st.lists(st.tuples(keys, values), min_size=1, max_size=3), folder=folder, share=1 / 7)


def _places(value: Any) -> list[tuple[str | int, ...]]:
    """Paths to the values in a tree of objects and lists; of many alike the first few."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, child in list(children)[:40] for rest in _places(child))]


def _replaced(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    if not place or not isinstance(value, (dict, list)) or (isinstance(value, list) and not isinstance(place[0], int)):
        return new
    if isinstance(value, dict):
        return {**value, place[0]: _replaced(value.get(place[0]), place[1:], new)}
    return [_replaced(child, place[1:], new) if number == place[0] else child for number, child in enumerate(value)]


def test_json_files_of_any_bytes(folder: Path, use, fuzz) -> None:
    raw = st.binary(max_size=60) | st.text('[]{}",:0\\', max_size=60).map(str.encode)

    def case(name, data, contained) -> None:
        path = folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        try:
            with contained:
                use(folder)
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)

    fuzz(case, st.sampled_from(["config.json", MANIFEST, "tokenizer.json"]), raw, folder=folder, share=1 / 7)

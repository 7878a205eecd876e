"""Opening folders: Hugging Face's, sharded and not; exports; and what must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos.compose.formats import open_model
from llmasos_hookspecs import Checkpoint, CheckpointError, UnsupportedModel


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("shard", [None, "60KB"], ids=["one file", "shards"])
def test_weights_config_and_decoder_are_those_of_the_model(shard: str | None, saved: Callable[..., Path], tiny_model: Any) -> None:
    model = tiny_model("llama")
    checkpoint = open_model(saved("llama", shard))
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.format == "huggingface"
    state = model.state_dict()
    assert set(checkpoint.names()) == set(state)
    for name in checkpoint.names():
        np.testing.assert_array_equal(checkpoint.tensor(name), state[name].numpy())
        assert checkpoint.shape(name) == tuple(state[name].shape)
    assert checkpoint.decoder.num_kv_heads == 2
    assert checkpoint.decoder.rope_theta == 20000.0
    assert checkpoint.manifest == {}


def test_the_generation_config_adds_the_ends_that_the_config_does_not_name(saved: Callable[..., Path]) -> None:
    folder = saved("llama")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert open_model(folder).decoder.eos_token_ids == (5, 6, 2)


def test_the_digest_follows_what_determines_the_output_and_nothing_else(saved: Callable[..., Path]) -> None:
    folder = saved("llama")
    first = open_model(folder).digest
    (folder / "README.md").write_text("words")
    assert open_model(folder).digest == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    second = open_model(folder).digest
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert len({first, second, open_model(folder).digest}) == 3


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "c:\\x.safetensors", "", 5])
def test_an_index_that_leads_out_of_its_folder_is_refused(name: object, saved: Callable[..., Path]) -> None:
    folder = saved("llama", "60KB")
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    change(index, weight_map=places | {"model.norm.weight": name})
    with pytest.raises(CheckpointError, match=r"outside its folder|plain file name"):
        open_model(folder)


@pytest.mark.parametrize("name", ["half \ud800.safetensors", "a" * 300 + ".safetensors"])
def test_a_name_that_no_file_system_takes_is_refused(name: str, saved: Callable[..., Path]) -> None:
    folder = saved("llama", "60KB")
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    change(index, weight_map=places | {"model.norm.weight": name})
    with pytest.raises(CheckpointError, match=r"cannot be followed|cannot be read"):
        open_model(folder)


def test_a_link_out_of_the_folder_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved("llama")
    moved = tmp_path / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(moved)
    (folder / "model.safetensors").symlink_to(moved)
    with pytest.raises(CheckpointError, match="link that leads outside"):
        open_model(folder)


def test_a_gguf_file_of_a_folder_that_is_a_link_out_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.gguf").write_bytes(b"GGUF")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "w.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    with pytest.raises(CheckpointError, match="link that leads outside"):
        open_model(tmp_path / "folder")


def test_the_links_of_a_hugging_face_cache_are_followed(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved("llama")
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert len(open_model(snapshot).names()) == 21


def test_an_index_that_names_a_tensor_that_no_shard_holds_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved("llama", "60KB")
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    change(index, weight_map=places | {"model.extra.weight": places["model.norm.weight"]})
    with pytest.raises(CheckpointError, match=r"holds no tensor 'model\.extra"):
        open_model(folder)


def test_an_unknown_tensor_name_is_one_clear_sentence(saved: Callable[..., Path]) -> None:
    checkpoint = open_model(saved("llama"))
    for look in (checkpoint.tensor, checkpoint.shape):
        with pytest.raises(CheckpointError, match="holds no tensor 'nope'"):
            look("nope")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is no model folder"),
        ({"config.json": "{}"}, r"holds no model\.safetensors"),
        ({"config.json": "[]", "model.safetensors": ""}, "holds no JSON object"),
        ({"config.json": "{", "model.safetensors": ""}, "not valid JSON"),
        ({"config.json": "{}", "model.safetensors": ""}, "is empty"),
        ({"config.json": "{}", "model.safetensors.index.json": "{}"}, "has no weight_map"),
        ({"a.gguf": "x", "b.gguf": "x"}, "holds 2 GGUF models"),
        ({"a.gguf": "no header"}, "is no GGUF file"),
    ],
)
def test_a_folder_that_is_no_whole_checkpoint_says_what_is_missing(files: dict[str, str], words: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=words):
        open_model(tmp_path)


def test_a_path_to_nothing_or_to_another_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_model(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(CheckpointError, match="no model file that is known"):
        open_model(tmp_path / "notes.txt")
    (tmp_path / "model.safetensors").write_text("words")
    with pytest.raises(CheckpointError, match="weights without a config"):
        open_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["model.onnx"], "onnx"),
        (["onnx/decoder_model_merged.onnx", "config.json"], "onnx"),
        (["genai_config.json", "model.onnx"], "onnx_genai"),
        (["saved_model.pb", "variables/variables.index"], "saved_model"),
        (["model.keras"], "keras"),
        (["openvino_model.xml", "openvino_model.bin", "config.json"], "openvino"),
        (["model.pt2"], "torch_export"),
    ],
)
def test_an_export_is_recognised_and_has_no_tensors_here(names: list[str], form: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"model_type": "llama"}' if name.endswith(".json") else "x")
    checkpoint = open_model(tmp_path)
    assert (checkpoint.format, list(checkpoint.names())) == (form, [])
    before = checkpoint.digest
    (tmp_path / names[0]).write_text("{}")
    assert open_model(tmp_path).digest != before
    with pytest.raises(UnsupportedModel, match=f"{form} export"):
        checkpoint.tensor("x")


def test_a_keras_preset_is_told_from_a_hugging_face_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"module": "keras_hub", "registered_name": "keras_hub>LlamaBackbone"}))
    (tmp_path / "model.weights.h5").write_text("x")
    assert open_model(tmp_path).format == "keras"

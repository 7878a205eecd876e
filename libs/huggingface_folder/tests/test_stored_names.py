"""What a folder's weights are called, which head is used, and what beside the weights is passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmasos.compose.formats import open_model
from llmasos_hookspecs import Checkpoint, UnsupportedModel
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

Saved = Callable[..., Path]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in change(load_file(path)).items()}, path, {"format": "pt"})


def opened(folder: Path, form: str) -> Checkpoint:
    """The folder as it is, or as one of pickle files."""
    if form == "pickle":
        path = folder / "model.safetensors"
        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()
    return open_model(folder, allow_pickle=True)


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
@pytest.mark.parametrize("flag", [True, None])
def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_flag_says(flag: bool | None, form: str, saved: Saved) -> None:
    folder = saved("llama")
    edit_config(folder, lambda config: config.update(tie_word_embeddings=flag) if flag else config.pop("tie_word_embeddings"))
    checkpoint = opened(folder, form)
    assert HEAD in checkpoint.names()
    assert checkpoint.config["tie_word_embeddings"] is False
    assert not checkpoint.decoder.tie_embeddings


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
@pytest.mark.parametrize("flag", [True, None])
def test_a_head_that_equals_the_embedding_is_tied_and_not_listed(flag: bool | None, form: str, saved: Saved) -> None:
    folder = saved("llama")
    edit_weights(folder, lambda weights: weights | {HEAD: weights[EMBEDDING]})
    edit_config(folder, lambda config: config.update(tie_word_embeddings=flag) if flag else config.pop("tie_word_embeddings"))
    checkpoint = opened(folder, form)
    assert HEAD not in checkpoint.names()
    assert checkpoint.decoder.tie_embeddings


def test_a_folder_written_from_one_with_another_head_says_so(saved: Saved, tmp_path: Path) -> None:
    folder = saved("llama")
    edit_config(folder, lambda config: config.update(tie_word_embeddings=True))
    base = open_model(folder)
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        for name in base.names():
            writer.add(name, base.tensor(name))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(open_model(tmp_path / "out").tensor(HEAD), base.tensor(HEAD))


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
@pytest.mark.parametrize("prefix", ["", "language_model.model.", "model.language_model."])
def test_weights_saved_under_another_prefix_have_the_names_of_the_whole_decoder(prefix: str, form: str, saved: Saved) -> None:
    folder = saved("llama", tie_word_embeddings=True)
    wanted = load_file(folder / "model.safetensors")
    edit_weights(folder, lambda weights: {prefix + name.removeprefix("model."): tensor for name, tensor in weights.items()})
    checkpoint = opened(folder, form)
    assert set(checkpoint.names()) == set(wanted)
    for name, tensor in wanted.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        np.testing.assert_array_equal(checkpoint.tensor(name), tensor.numpy())


def test_the_head_of_a_language_model_inside_another_is_found(saved: Saved) -> None:
    folder = saved("llama")
    wanted = load_file(folder / "model.safetensors")[HEAD]
    edit_weights(folder, lambda weights: {f"language_model.{name}": tensor for name, tensor in weights.items()})
    np.testing.assert_array_equal(open_model(folder).tensor(HEAD), wanted.numpy())


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
def test_masks_and_counters_beside_the_weights_are_not_listed(form: str, saved: Saved) -> None:
    """Older files hold attention masks and position ids beside the weights."""
    folder = saved("llama")
    usual = set(open_model(folder).names())
    buffers = {
        "model.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "model.layers.1.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "model.position_ids": torch.arange(8),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    edit_weights(folder, lambda weights: weights | buffers)
    assert set(opened(folder, form).names()) == usual


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
def test_a_table_of_whole_numbers_is_listed_read_and_written_as_it_is(form: str, saved: Saved, tmp_path: Path) -> None:
    """Some models look up in one which expert a token goes to."""
    folder, name = saved("llama"), "model.layers.0.mlp.gate.expert_of_token"
    edit_weights(folder, lambda weights: weights | {name: torch.arange(8)})
    base = opened(folder, form)
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        for each in base.names():
            writer.add(each, base.tensor(each))
    found = open_model(tmp_path / "out").tensor(name)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.arange(8))


def test_a_weight_of_whole_numbers_is_refused_when_it_is_read(saved: Saved) -> None:
    folder = saved("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights | {name: weights[name].to(torch.int8)})
    checkpoint = open_model(folder)
    with pytest.raises(UnsupportedModel, match="int8"):
        checkpoint.tensor(name)


def test_floats_that_json_lacks_are_read_as_transformers_writes_them_and_written_so(saved: Saved, tmp_path: Path) -> None:
    folder = saved("llama")
    limits = {
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "inner": {"low": {"__float__": "-Infinity"}},
        "none": {"__float__": "NaN"},
    }
    edit_config(folder, lambda config: config.update(limits, bare=math.inf, other={"__float__": "one"}))
    base = open_model(folder)
    assert base.config["time_step_limit"] == [0.0, math.inf]
    assert base.config["inner"] == {"low": -math.inf}
    assert math.isnan(base.config["none"])
    assert base.config["bare"] == math.inf
    assert base.config["other"] == {"__float__": "one"}
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        for name in base.names():
            writer.add(name, base.tensor(name))
    text = (tmp_path / "out" / "config.json").read_text()
    written = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert {key: written[key] for key in limits} == limits
    assert written["bare"] == {"__float__": "Infinity"}

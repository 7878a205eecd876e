"""Files that ``write_gguf`` does not make: older ones, and ones that say what transformers does not know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmasos.compose.formats import open_model
from llmasos_format_gguf.write import write_gguf
from llmasos_hookspecs import CheckpointError, UnsupportedModel, as_float32


def changed_copy(
    source: Path, target: Path, metadata: Mapping[str, int | list[int]], tensors: dict[str, npt.NDArray[np.float32]], without: str
) -> None:
    """The file ``source`` with numbers of its metadata and tensors changed or added, and what has ``without`` in its name left out."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if (
            without not in field.name
            and not field.name.startswith(("GGUF.", "general.architecture"))
            and field.name not in metadata
            and field.contents() != []
        ):
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for key, value in metadata.items():
        writer.add_array(key, value) if isinstance(value, list) else writer.add_uint32(key, value)
    for tensor in reader.tensors:
        if without not in tensor.name:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_keys_and_values_of_before_they_were_split_are_read(made: Any, tmp_path: Path) -> None:
    """Older files of DeepSeek hold both in one matrix, and give the widths of a head of each."""
    _, folder, file = made("deepseek_v3")
    source = open_model(folder)
    whole = {
        f"blk.{layer}.attn_kv_b.weight": as_float32(source.tensor(f"model.layers.{layer}.self_attn.kv_b_proj.weight")).copy()
        for layer in range(3)
    }
    widths = {"deepseek2.attention.head_count_kv": 4, "deepseek2.attention.key_length": 24, "deepseek2.attention.value_length": 24}
    changed_copy(file, tmp_path / "part.gguf", {}, {}, "attn_v_b")
    with pytest.raises(CheckpointError, match="only a part of"):
        open_model(tmp_path / "part.gguf")
    changed_copy(file, tmp_path / "no_keys.gguf", {}, {}, "attn_k_b")
    changed_copy(tmp_path / "no_keys.gguf", tmp_path / "neither.gguf", {}, {}, "attn_v_b")
    changed_copy(tmp_path / "neither.gguf", tmp_path / "old.gguf", widths, whole, "_length_mla")
    found = open_model(tmp_path / "old.gguf")
    assert set(found.names()) == set(source.names())
    for name in source.names():
        np.testing.assert_array_equal(as_float32(found.tensor(name)), as_float32(source.tensor(name)), err_msg=name)


def test_layers_that_predict_further_ahead_are_neither_read_nor_written(made: Any, tmp_path: Path) -> None:
    _, folder, file = made("glm4_moe")
    more = {"blk.3.attn_norm.weight": np.ones(64, np.float32), "blk.3.nextn.eh_proj.weight": np.ones((64, 128), np.float32)}
    counts = {"glm4moe.block_count": 4, "glm4moe.nextn_predict_layers": 1}
    changed_copy(file, tmp_path / "ahead.gguf", counts, more, "nothing")
    found, wanted = open_model(tmp_path / "ahead.gguf"), open_model(file)
    assert (list(found.names()), found.config) == (list(wanted.names()), wanted.config)
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors") | {"model.layers.3.eh_proj.weight": torch.ones(64, 128)}
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    written = write_gguf(open_model(tmp_path / "model"), tmp_path / "written.gguf", "f32")
    assert any("further ahead are left out" in note for note in written.notes)
    assert set(open_model(written.path).names()) == set(wanted.names())


def test_a_decay_rate_that_is_not_negative_is_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("mamba2")
    changed_copy(file, tmp_path / "x.gguf", {}, {"blk.0.ssm_a": np.ones((8, 1), np.float32)}, "blk.0.ssm_a")
    with pytest.raises(CheckpointError, match=r"'blk\.0\.ssm_a' that does not fit \(a decay rate is not below 0\)"):
        open_model(tmp_path / "x.gguf").tensor("backbone.layers.0.mixer.A_log")


def test_layers_of_different_heads_of_keys_are_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("lfm2")
    reader = gguf.GGUFReader(file)
    assert reader.fields["lfm2.attention.head_count_kv"].contents() == [0, 2, 0]
    changed_copy(file, tmp_path / "x.gguf", {"lfm2.attention.head_count_kv": 0}, {}, "nothing")
    with pytest.raises(UnsupportedModel, match="heads of keys in its layers"):
        open_model(tmp_path / "x.gguf")


def test_experts_chosen_in_a_way_that_transformers_does_not_know_are_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("deepseek_v3")
    changed_copy(file, tmp_path / "x.gguf", {"deepseek2.expert_gating_func": 3}, {}, "nothing")
    with pytest.raises(UnsupportedModel, match="expert_gating_func = 3"):
        open_model(tmp_path / "x.gguf")


def test_a_model_is_told_from_another_of_its_architecture_by_its_name(made: Any, tmp_path: Path) -> None:
    """Where neither metadata nor tensors do: GLM-4's small mixture computes as DeepSeek-V3 does, and its files call it so."""
    _, _, file = made("glm4_moe_lite")
    changed_copy(file, tmp_path / "nameless.gguf", {}, {}, "general.basename")
    assert open_model(file).config["model_type"] == "glm4_moe_lite"
    assert open_model(tmp_path / "nameless.gguf").config["model_type"] == "deepseek_v3"


def test_more_layers_without_experts_than_there_are_layers_are_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("exaone_moe")
    changed_copy(file, tmp_path / "x.gguf", {"exaone-moe.leading_dense_block_count": 6}, {}, "nothing")
    with pytest.raises(CheckpointError, match="6 of its 5 layers have no experts"):
        open_model(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("kinds", "refusal", "words"),
    [
        (["sparse", "dense", "sparse", "sparse", "sparse"], UnsupportedModel, "layers without experts after some with"),
        (["dense", "sparse"], CheckpointError, "no list of 5 mlp_layer_types"),
        (["dense", "sparse", "sparse", "sparse", "wide"], CheckpointError, "each dense or sparse"),
    ],
)
def test_layers_with_experts_that_a_file_cannot_tell_are_refused_before_it_is_written(
    kinds: list[str], refusal: type[Exception], words: str, made: Any, tmp_path: Path
) -> None:
    _, folder, _ = made("exaone_moe")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"mlp_layer_types": kinds}))
    with pytest.raises(refusal, match=words):
        write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    assert not (tmp_path / "x.gguf").exists()


def test_queries_that_grow_by_nothing_that_is_told_are_refused(made: Any, tmp_path: Path) -> None:
    """transformers' Ministral 3 computes none without it."""
    _, folder, file = made("ministral3")
    changed_copy(file, tmp_path / "x.gguf", {}, {}, "attention.temperature_scale")
    with pytest.raises(UnsupportedModel, match=r"no YaRN scaling with mistral3\.attention\.temperature_scale"):
        open_model(tmp_path / "x.gguf")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="no YaRN scaling with llama_4_scaling_beta"):
        write_gguf(open_model(tmp_path / "model"), tmp_path / "y.gguf", "f32")


def test_layers_of_an_mlp_and_layers_of_experts_in_one_model_are_refused(made: Any, tmp_path: Path) -> None:
    """A file of Nemotron-H has the width of the one or of the other."""
    _, folder, _ = made("nemotron_h")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["layers_block_type"] = ["linear_attention", "mlp", "full_attention", "moe"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="layers of the kind 'moe' beside others"):
        write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    "older", [{"hybrid_override_pattern": "M-*-"}, {"layers_block_type": ["mamba", "mlp", "attention", "mlp"]}], ids=["pattern", "names"]
)
def test_older_configs_of_nemotron_h_tell_their_layers_as_today(older: dict[str, Any], made: Any, tmp_path: Path) -> None:
    _, folder, file = made("nemotron_h")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["layers_block_type"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | older))
    written = write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    assert open_model(written.path).config == open_model(file).config


def test_a_layer_that_attends_and_has_an_mlp_is_no_nemotron_h(made: Any, tmp_path: Path) -> None:
    _, _, file = made("nemotron_h")
    changed_copy(file, tmp_path / "x.gguf", {"nemotron_h.feed_forward_length": 96}, {}, "nothing")
    with pytest.raises(CheckpointError, match="a layer with both attention and an MLP"):
        open_model(tmp_path / "x.gguf")


def test_layers_with_linear_attention_may_be_listed(made: Any, tmp_path: Path) -> None:
    """As they are where those with attention follow no period; and both ways of telling them are read."""
    _, folder, file = made("qwen3_next")
    assert "qwen3next.full_attention_interval" in gguf.GGUFReader(file).fields
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    names = {"0": "3", "3": "0"}
    tensors = {
        ".".join([*parts[:2], names.get(parts[2], parts[2]), *parts[3:]]) if parts[1] == "layers" else name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        for parts in [name.split(".")]
    }
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"layer_types": config["layer_types"][::-1]}))
    written = write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    assert gguf.GGUFReader(written.path).fields["qwen3next.attention.recurrent_layers"].contents() == [False, True, True, True]
    assert open_model(written.path).config["layer_types"] == config["layer_types"][::-1]


def test_projections_of_before_they_were_ordered_anew_are_read(made: Any, tmp_path: Path) -> None:
    """Older files of Qwen3-Next hold queries, keys, values and gates as Hugging Face does."""
    _, folder, file = made("qwen3_next")
    source = open_model(folder)
    older = {
        f"blk.{layer}.ssm_in.weight": as_float32(source.tensor(f"model.layers.{layer}.linear_attn.in_proj_qkvz.weight")).copy()
        for layer in range(3)
    }
    changed_copy(file, tmp_path / "half.gguf", {}, {}, "attn_qkv")
    changed_copy(tmp_path / "half.gguf", tmp_path / "old.gguf", {}, older, "attn_gate")
    found, wanted = open_model(tmp_path / "old.gguf"), open_model(file)
    assert set(found.names()) == set(wanted.names())
    for name in wanted.names():
        np.testing.assert_array_equal(as_float32(found.tensor(name)), as_float32(wanted.tensor(name)), err_msg=name)


def test_layers_of_qwen_that_predict_further_ahead_are_neither_read_nor_written(made: Any, tmp_path: Path) -> None:
    """Its checkpoints call them ``mtp``, and its files count them among the layers."""
    _, folder, file = made("qwen3_5")
    more = {"blk.4.attn_norm.weight": np.ones(64, np.float32), "blk.4.nextn.eh_proj.weight": np.ones((64, 128), np.float32)}
    changed_copy(file, tmp_path / "ahead.gguf", {"qwen35.block_count": 5, "qwen35.nextn_predict_layers": 1}, more, "nothing")
    found, wanted = open_model(tmp_path / "ahead.gguf"), open_model(file)
    assert (list(found.names()), found.config) == (list(wanted.names()), wanted.config)
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors") | {"mtp.fc.weight": torch.ones(64, 128)}
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    written = write_gguf(open_model(tmp_path / "model"), tmp_path / "written.gguf", "f32")
    assert any("further ahead are left out" in note for note in written.notes)
    assert set(open_model(written.path).names()) == set(wanted.names())


def test_layers_with_a_window_that_have_no_more_heads_of_keys_are_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("mimo_v2_flash")
    assert gguf.GGUFReader(file).fields["mimo2.attention.head_count_kv"].contents() == [2, 4, 2]
    changed_copy(file, tmp_path / "x.gguf", {"mimo2.attention.head_count_kv": 2}, {}, "nothing")
    with pytest.raises(UnsupportedModel, match="other than 2 times as many heads of keys"):
        open_model(tmp_path / "x.gguf")


def test_tensors_tell_which_layers_have_experts_where_the_metadata_does_not(made: Any, tmp_path: Path) -> None:
    _, _, file = made("mimo_v2_flash")
    changed_copy(file, tmp_path / "x.gguf", {}, {}, "leading_dense_block_count")
    assert open_model(tmp_path / "x.gguf").config == open_model(file).config


def test_a_published_config_of_mimo_counts_its_window_without_the_token_itself(made: Any, tmp_path: Path) -> None:
    """As transformers reads it; and layers that rotate different shares of a head are refused."""
    _, folder, file = made("mimo_v2_flash")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"sliding_window": 8, "sliding_window_size": 8}))
    written = write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    assert open_model(written.path).config == open_model(file).config
    config["rope_parameters"]["sliding_attention"]["partial_rotary_factor"] = 0.25
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="rotate different shares"):
        write_gguf(open_model(tmp_path / "model"), tmp_path / "y.gguf", "f32")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("nemotron_h", "nemotron_h.feed_forward_length"),
        ("mimo_v2_flash", "mimo2.attention.head_count_kv"),
        ("qwen3_5", "qwen35.rope.dimension_sections"),
    ],
)
def test_a_list_for_each_layer_of_another_length_is_refused_in_one_sentence(name: str, key: str, made: Any, tmp_path: Path) -> None:
    _, _, file = made(name)
    changed_copy(file, tmp_path / "x.gguf", {}, {}, key.partition(".")[2])
    if "sections" not in key:  # without sections they are those of the architecture
        with pytest.raises(CheckpointError, match=f"has nothing in its metadata {key}"):
            open_model(tmp_path / "x.gguf")
    changed_copy(tmp_path / "x.gguf", tmp_path / "y.gguf", {key: [1, 2]}, {}, "nothing")
    with pytest.raises(CheckpointError, match=f"has an array in its metadata {key}, and an array of . numbers is needed"):
        open_model(tmp_path / "y.gguf")

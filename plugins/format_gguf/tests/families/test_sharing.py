"""Gemma 3n and Gemma 4: files and configs that ``write_gguf`` and transformers do not make, and what neither can say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmasos.compose.formats import open_model
from llmasos_format_gguf.write import write_gguf
from llmasos_hookspecs import CheckpointError, LLMasOSError, UnsupportedModel, as_float32

from .test_other_files import changed_copy

#: As published configs have it, in place of a list for each layer.
_WIDE = {"per_layer_config": None, "global_head_dim": 32}


def copied(folder: Path, target: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """The folder with another config."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in without} | changes))
    return target


def test_keys_and_values_that_a_layer_takes_from_another_are_neither_read_nor_written(made: Any, tmp_path: Path) -> None:
    """Published checkpoints hold them, and so do files that are made of those."""
    _, folder, file = made("gemma4")
    spare = {f"blk.5.attn_{name}.weight": np.ones(shape, np.float32) for name, shape in (("k", (64, 64)), ("v", (64, 64)), ("k_norm", 32))}
    changed_copy(file, tmp_path / "x.gguf", {}, spare, "nothing")
    assert list(open_model(tmp_path / "x.gguf").names()) == list(open_model(file).names())
    shutil.copytree(folder, tmp_path / "model")
    more = {f"model.layers.5.self_attn.{name}_proj.weight": torch.ones(64, 64) for name in "kv"}
    held = load_file(folder / "model.safetensors")
    save_file(held | more | {"model.layers.5.self_attn.k_norm.weight": torch.ones(32)}, tmp_path / "model" / "model.safetensors")
    written = write_gguf(open_model(tmp_path / "model"), tmp_path / "y.gguf", "f32")
    assert set(open_model(written.path).names()) == set(held)


def test_experts_that_are_stored_as_those_of_other_families_are_read(made: Any, tmp_path: Path) -> None:
    _, folder, file = made("gemma4, experts")
    names = [f"model.layers.{layer}.experts.gate_up_proj" for layer in range(6)]
    fused = {name: as_float32(open_model(folder).tensor(name)) for name in names}
    apart = {
        f"blk.{layer}.ffn_{part}_exps.weight": np.ascontiguousarray(half)
        for layer, name in enumerate(names)
        for part, half in zip(("gate", "up"), np.split(fused[name], 2, axis=1), strict=True)
    }
    changed_copy(file, tmp_path / "x.gguf", {}, apart, "ffn_gate_up_exps")
    found = open_model(tmp_path / "x.gguf")
    for name in names:
        np.testing.assert_array_equal(as_float32(found.tensor(name)), fused[name])


def test_a_published_config_is_that_which_transformers_saves(made: Any, tmp_path: Path) -> None:
    """Which lists what layers that attend to all have of their own."""
    _, folder, file = made("gemma4, experts")
    published = {"global_head_dim": 32, "num_global_key_value_heads": 1, "use_bidirectional_attention": "vision"}
    model = copied(folder, tmp_path / "model", published, ("per_layer_config",))
    written = write_gguf(open_model(model), tmp_path / "x.gguf", "f32")
    assert open_model(written.path).config == open_model(file).config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({**_WIDE, "layer_types": [*["full_attention", "sliding_attention"] * 2, *["full_attention"] * 2], "num_kv_shared_layers": 2},
         "others than the two before"),
        ({**_WIDE, "layer_types": ["sliding_attention"] * 3 + ["conv", "sliding_attention", "full_attention"]}, "of the kind 'conv'"),
        ({"per_layer_config": {"3": {"head_dim": 32}, "5": {"head_dim": 16}}}, "more than two forms"),
        ({"per_layer_config": {"3": {"head_dim": 32, "num_key_value_heads": 1}, "5": {"head_dim": 32, "num_key_value_heads": 1}}},
         "have values of their own"),
        ({"rope_parameters": {
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}}, "layers with a window"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"num_kv_shared_layers": 6}, "6 of 6 layers without keys"),
        ({**_WIDE, "global_head_dim": -4}, "global_head_dim = -4"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)  # fmt: skip
def test_what_a_file_cannot_say_is_refused_before_it_is_written(changes: dict[str, Any], words: str, made: Any, tmp_path: Path) -> None:
    _, folder, _ = made("gemma4")
    with pytest.raises(LLMasOSError, match=words):
        write_gguf(open_model(copied(folder, tmp_path / "model", changes)), tmp_path / "x.gguf", "f32")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_kv_shared_layers": 3}, "19 layers with keys and values of their own, and a GGUF of gemma3n 20"),
        ({"layer_types": ["full_attention"] * 22}, "all but each fifth"),
        ({"activation_sparsity_pattern": [0.95] * 22}, "activation_sparsity_pattern"),
        ({"laurel_rank": 32}, "laurel_rank = 32"),
        ({"vocab_size_per_layer_input": 256}, "which GGUF wants alike"),
        ({"intermediate_size": [96] * 21 + [192]}, "intermediate_size"),
    ],
)
def test_what_llama_cpp_takes_as_given_of_gemma_3n_is_refused_before_it_is_written(
    changes: dict[str, Any], words: str, made: Any, tmp_path: Path
) -> None:
    _, folder, _ = made("gemma3n")
    with pytest.raises(LLMasOSError, match=words):
        write_gguf(open_model(copied(folder, tmp_path / "model", changes)), tmp_path / "x.gguf", "f32")


@pytest.mark.parametrize(
    ("name", "metadata", "tensors", "refusal", "words"),
    [
        ("gemma4", {"attention.head_count_kv": [2, 1, 2, 2, 2, 2]}, {}, UnsupportedModel, r"\[1, 2\] heads of keys in layers of one kind"),
        ("gemma4", {"attention.head_count_kv": [2, 2, 2, 1, 2, 1]}, {}, UnsupportedModel, "have values of their own"),
        ("gemma4", {"feed_forward_length": [96, 192, 96, 96, 192, 192]}, {}, CheckpointError, "MLPs of the widths"),
        ("gemma4", {"attention.value_length": 16}, {}, UnsupportedModel, "keys of 32 elements, values of 16"),
        ("gemma4", {"attention.shared_kv_layers": 9}, {}, CheckpointError, "9 of 6 layers without keys"),
        ("gemma4", {"attention.sliding_window_pattern": [0, 0, 0, 0, 0, 1]}, {}, UnsupportedModel, "a window in its last layer"),
        ("gemma4", {}, {"rope_freqs.weight": np.array([1, 2, *[1e30] * 14], np.float32)}, UnsupportedModel, "rope_freqs"),
        ("gemma3n", {"attention.shared_kv_layers": 1}, {}, UnsupportedModel, "21 layers with keys and values of their own"),
        ("gemma3n", {"activation_sparsity_scale": [1.6449] * 22}, {}, UnsupportedModel, "few activations in other layers"),
        ("gemma3n", {"altup.num_inputs": 3}, {}, UnsupportedModel, "altup.num_inputs = 3"),
        ("gemma4", {}, {"rope_freqs.weight": np.ones(8, np.float32)}, UnsupportedModel, "rope_freqs"),
    ],
)  # fmt: skip
def test_a_file_that_no_config_of_transformers_describes_is_refused(
    name: str, metadata: dict[str, Any], tensors: dict[str, Any], refusal: type[Exception], words: str, made: Any, tmp_path: Path
) -> None:
    _, _, file = made(name)
    changed = {f"{name}.{key}": value for key, value in metadata.items()}
    changed_copy(file, tmp_path / "x.gguf", changed, tensors, "rope_freqs" if tensors else "nothing")
    with pytest.raises(refusal, match=words):
        open_model(tmp_path / "x.gguf")

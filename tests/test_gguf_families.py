"""Every architecture of GGUF that is read and written: from transformers' model to a file and back, and through llama.cpp.

The files are made by ``write_gguf`` of tiny random models, so a fault that writer and reader share would not show between the two of
them; llama.cpp, which shares no code with either, must compute the same.
"""

from __future__ import annotations

import ctypes
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import attrs
import gguf
import numpy as np
import numpy.typing as npt
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llmasos.checkpoints import open_checkpoint
from llmasos.checkpoints.gguf_families import FAMILIES
from llmasos.checkpoints.gguf_family import Family
from llmasos.checkpoints.gguf_write import TYPES, write_gguf
from llmasos.checkpoints.tokenizer.pieces import SPELLING
from llmasos_hookspecs import Checkpoint, CheckpointError, EngineLimits, Row, UnsupportedModel, as_float32
from llmasos_hookspecs.testing.sandbox import SandboxContext

torch.set_num_threads(1)

_VOCAB = {"vocab_size": 288, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": None}
_SIZES = {
    **_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
_TIED = {**_SIZES, "tie_word_embeddings": True}
_WIDTH = {"head_dim": 16}
_GPT = {**_VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MLP_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ROUTED = {
    **_SIZES, "num_hidden_layers": 3, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_shared_experts": 2, "routed_scaling_factor": 1.5,
}  # fmt: skip
_PROJECTIONS = {"q_lora_rank": 24, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 8, "v_head_dim": 24}
_LATENT = {**_ROUTED, "num_key_value_heads": 4, **_PROJECTIONS}
_HALF_ROPE = {"rope_type": "default", "partial_rotary_factor": 0.5}
_LATENT_YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.707, "mscale_all_dim": 0.707,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
_GRANITE_HYBRID = {
    **_SIZES, "layer_types": ["linear_attention", "full_attention"], "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2,
    "shared_intermediate_size": 48, "attention_multiplier": 0.2,
}  # fmt: skip
_FALCON_H1 = {
    **_SIZES, **_WIDTH, "mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_state": 16, "mamba_n_groups": 2,
}  # fmt: skip
_FALCON = {**_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_NEOX = {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.3],
    "long_factor": [1.5, 2.5, 3.1, 4.2, 5.3, 6.4, 7.5, 8.6],
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}

#: Name -> model type and what differs from its defaults.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _SIZES),
    "llama, tied": ("llama", _TIED),
    "llama, scaled as 3.1": ("llama", {**_SIZES, "head_dim": 64, "rope_parameters": _LLAMA3}),
    "llama, linear": ("llama", {**_SIZES, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama, biases": ("llama", {**_SIZES, "attention_bias": True}),
    "mistral": ("mistral", {**_SIZES, "sliding_window": None}),
    "mistral, window": ("mistral", {**_SIZES, "sliding_window": 9}),
    "mixtral": ("mixtral", {**_SIZES, **_EXPERTS}),
    "qwen2": ("qwen2", _SIZES),
    "qwen2, yarn": ("qwen2", {**_SIZES, "rope_parameters": _YARN}),
    "qwen3": ("qwen3", {**_SIZES, "head_dim": 24}),
    "qwen2_moe": ("qwen2_moe", {**_SIZES, **_MLP_EXPERTS, "shared_expert_intermediate_size": 48}),
    "qwen3_moe": ("qwen3_moe", {**_SIZES, **_WIDTH, **_MLP_EXPERTS, "norm_topk_prob": True}),
    "gemma": ("gemma", {**_TIED, **_WIDTH}),
    "gemma2": ("gemma2", {**_TIED, **_WIDTH, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3": ("gemma3_text", {**_TIED, **_WIDTH, "num_hidden_layers": 7, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "phi": ("phi", _SIZES),
    "phi3": ("phi3", _SIZES),
    "phi3, window": ("phi3", {**_SIZES, "sliding_window": 9}),
    "phi3, longrope": ("phi3", {**_SIZES, "original_max_position_embeddings": 32, "rope_parameters": _LONGROPE}),
    "phimoe": ("phimoe", {**_SIZES, **_EXPERTS, "attention_bias": True, "lm_head_bias": True}),
    "granite": (
        "granite",
        {**_SIZES, "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    "granitemoe": ("granitemoe", {**_SIZES, **_EXPERTS, "attention_multiplier": 0.2}),
    "granitemoeshared": ("granitemoeshared", {**_SIZES, **_EXPERTS, "shared_intermediate_size": 48}),
    "smollm3": ("smollm3", {**_TIED, "num_hidden_layers": 5}),
    "arcee": ("arcee", _SIZES),
    "apertus": ("apertus", {**_SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "apertus, scaled": ("apertus", {**_SIZES, "hidden_size": 256, "rope_parameters": _LLAMA3}),
    "seed_oss": ("seed_oss", {**_SIZES, **_WIDTH}),
    "ernie4_5": ("ernie4_5", {**_SIZES, **_WIDTH}),
    "olmo": ("olmo", {**_SIZES, "clip_qkv": 0.5}),
    "olmo2": ("olmo2", _SIZES),
    "olmo3": ("olmo3", {**_SIZES, "num_hidden_layers": 5, "sliding_window": 8}),
    "olmoe": ("olmoe", {**_SIZES, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "starcoder2": ("starcoder2", _SIZES),
    "stablelm": ("stablelm", {**_SIZES, "use_qkv_bias": True}),
    "stablelm, norms": ("stablelm", {**_SIZES, "qk_layernorm": True}),
    "stablelm, parallel": ("stablelm", {**_SIZES, "use_parallel_residual": True}),
    "nemotron": ("nemotron", {**_SIZES, **_WIDTH}),
    "cohere": ("cohere", _TIED),
    "cohere, norms": ("cohere", {**_TIED, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**_TIED, **_WIDTH, "num_hidden_layers": 5, "sliding_window": 8}),
    "glm": ("glm", {**_SIZES, **_WIDTH}),
    "glm4": ("glm4", {**_SIZES, **_WIDTH}),
    "exaone": ("exaone", _SIZES),
    "exaone4": ("exaone4", {**_SIZES, "sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "exaone4, windows": ("exaone4", {**_SIZES, "num_hidden_layers": 5, "sliding_window": 8}),
    "gpt_oss": ("gpt_oss", {**_SIZES, **_WIDTH, **_EXPERTS, "sliding_window": 8}),
    "gpt2": ("gpt2", _GPT),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "gpt_neox": ("gpt_neox", {**_NEOX, "rope_parameters": {"rope_type": "default", "rope_theta": 5e3, "partial_rotary_factor": 0.5}}),
    "falcon": ("falcon", _FALCON),
    "falcon, groups": ("falcon", {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon, one norm": ("falcon", {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}),
    "deepseek_v2": ("deepseek_v2", _LATENT),
    "deepseek_v2, yarn": ("deepseek_v2", {**_LATENT, "rope_parameters": _LATENT_YARN}),
    "deepseek_v2, groups": ("deepseek_v2", {**_LATENT, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}),
    "deepseek_v2, lite": (
        "deepseek_v2",
        {**_LATENT, "num_hidden_layers": 27, "first_k_dense_replace": 26, "q_lora_rank": None, "hidden_size": 32, "kv_lora_rank": 16},
    ),
    "deepseek_v3": ("deepseek_v3", {**_LATENT, "n_group": 4, "topk_group": 2}),
    "deepseek_v3, yarn": ("deepseek_v3", {**_LATENT, "n_group": 1, "topk_group": 1, "rope_parameters": _LATENT_YARN}),
    "glm4_moe": ("glm4_moe", {**_ROUTED, **_WIDTH, "use_qk_norm": True, "attention_bias": True}),
    "dots1": ("dots1", {**_ROUTED, **_WIDTH, "num_key_value_heads": 4, "sliding_window": None, "norm_topk_prob": True}),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {**_SIZES, "num_hidden_layers": 3, "moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 32},
    ),
    "falcon_h1": ("falcon_h1", _FALCON_H1),
    "falcon_h1, multiplied": (
        "falcon_h1",
        {
            **_FALCON_H1,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 4.0,
            "mlp_multipliers": [0.5, 2.0],
            "key_multiplier": 0.25,
            "attention_out_multiplier": 0.5,
            "attention_in_multiplier": 2.0,
            "ssm_multipliers": [0.5, 2.0, 0.25, 4.0, 0.125],
            "ssm_in_multiplier": 2.0,
            "ssm_out_multiplier": 0.5,
        },
    ),
    "llama4": (
        "llama4_text",
        {**_SIZES, **_WIDTH, **_EXPERTS, "num_hidden_layers": 5, "intermediate_size_mlp": 80, "interleave_moe_layer_step": 2},
    ),
    "hunyuan": ("hunyuan_v1_dense", {**_SIZES, **_WIDTH}),
    "hunyuan, alpha": (
        "hunyuan_v1_dense",
        {**_SIZES, "head_dim": 24, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}},
    ),
    "hunyuan_moe": ("hunyuan_v1_moe", {**_SIZES, **_WIDTH, "num_experts": 4, "moe_topk": [2, 2]}),
    "jamba": (
        "jamba",
        {
            **_SIZES,
            "num_hidden_layers": 4,
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
        },
    ),
    "lfm2": (
        "lfm2",
        {**_TIED, "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    ),
    "lfm2, adjusted": ("lfm2", {**_TIED, "full_attn_idxs": [1]}),
    "lfm2_moe": (
        "lfm2_moe",
        {**_TIED, **_MLP_EXPERTS, "num_hidden_layers": 3, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]},
    ),
    "mamba": ("mamba", {**_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": (
        "mamba2",
        {**_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2},
    ),
    "granitemoehybrid": ("granitemoehybrid", {**_GRANITE_HYBRID, **_EXPERTS, "position_embedding_type": "nope"}),
    "granitemoehybrid, dense": (
        "granitemoehybrid",
        {**_GRANITE_HYBRID, "num_local_experts": 0, "intermediate_size": 48, "position_embedding_type": "rope"},
    ),
    "jais2": ("jais2", {**_SIZES, **_WIDTH}),
    "minimax_m2": ("minimax_m2", {**_SIZES, **_WIDTH, **_EXPERTS, "rope_parameters": {**_HALF_ROPE, "rope_theta": 5e6}}),
    "glm4_moe_lite": (
        "glm4_moe_lite",
        {**{key: value for key, value in _LATENT.items() if key != "first_k_dense_replace"}, "n_group": 4, "topk_group": 2},
    ),
    "youtu": ("youtu", {key: _LATENT[key] for key in (*_SIZES, *_PROJECTIONS)}),
    "exaone_moe": (
        "exaone_moe",
        {**_SIZES, **_WIDTH, **_MLP_EXPERTS, "num_hidden_layers": 5, "num_shared_experts": 2, "sliding_window": 8},
    ),
    "solar_open": (
        "solar_open",
        {**{key: value for key, value in _ROUTED.items() if key != "first_k_dense_replace"}, **_WIDTH},
    ),
    "afmoe": (
        "afmoe",
        {**_SIZES, **_WIDTH, **_MLP_EXPERTS, "num_hidden_layers": 5, "num_dense_layers": 2, "sliding_window": 8, "mup_enabled": True},
    ),
    "minicpm3": ("minicpm3", {**{key: _LATENT[key] for key in (*_SIZES, *_PROJECTIONS)}, "tie_word_embeddings": True}),
    "falcon_mamba": ("falcon_mamba", {**_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "bloom": ("bloom", {**_VOCAB, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {**_VOCAB, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
}

#: Models that llama.cpp 0.3.36 computes differently from transformers, or does not load, with files from any writer.
NOT_IN_LLAMA_CPP = {
    "mistral, window": "it runs llama without windows",
    "phi3, window": "it runs phi3 without windows",
    "phimoe": "it chooses experts by softmax, transformers by SparseMixer",
    "exaone4, windows": "it knows windows in EXAONE 4 of 64 layers only",
    "deepseek_v2, groups": "it rates groups by their best two experts, transformers by the best one",
    "cohere, norms": "it looks for norms of queries and keys in Command R of 64 layers or more only",
}

#: Families whose norms are stored with 1 added: what is read differs by the rounding of that sum, and logarithms of decay rates by that of
#: the exponential.
PLUS_ONE = ("gemma", "gemma2", "gemma3", "nemotron")

#: The model that GGUF stores with other weights: multiplied, where its config says by what.
MULTIPLIED = "falcon_h1, multiplied"

#: Keys of a config that say nothing of what a model computes, or say it of what is written anyhow.
_SILENT = {"architectures", "dtype", "transformers_version", "_attn_implementation_autoset"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path, Path]]:
    """The model of a name in ``MODELS``, its folder and its GGUF file in float32; made once."""
    found: dict[str, tuple[PreTrainedModel, Path, Path]] = {}

    def make(name: str) -> tuple[PreTrainedModel, Path, Path]:
        if name not in found:
            folder = tmp_path_factory.mktemp("model")
            model = tiny(name)
            model.save_pretrained(folder / "model")
            byte_level_tokenizer(folder / "model")
            write_gguf(open_checkpoint(folder / "model"), folder / "model.gguf", "f32")
            found[name] = (model, folder / "model", folder / "model.gguf")
        return found[name]

    return make


def tiny(name: str) -> PreTrainedModel:
    """A random model whose logits are far apart, with transformers' own attention."""
    kind, changes = MODELS[name]
    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def byte_level_tokenizer(folder: Path) -> None:
    vocabulary = {SPELLING[byte]: byte for byte in range(256)}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def prompt(length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(3).integers(3, 250, length)]


def expected(model: PreTrainedModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()


def apart(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_every_family_of_the_table_has_a_model_here() -> None:
    assert {family.model_type for family in FAMILIES} == {kind for kind, _ in MODELS.values()}


#: Keys whose value the architecture of the file fixes to another than transformers' default, because no published model has that.
_PUBLISHED = {("afmoe", "mup_enabled"), ("qwen3_moe", "norm_topk_prob"), ("dots1", "sliding_window"), ("granitemoehybrid", "num_local_experts")}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.arch} as {family.model_type}")
def test_what_a_config_leaves_out_is_what_transformers_takes(family: Family) -> None:
    """The table's defaults and what an architecture implies, against transformers' own config classes."""
    default = AutoConfig.for_model(family.model_type)
    told = default.to_dict()
    nested = told.get("attn_config") or {}
    for field in family.fields:
        if field.default is not ...:
            assert nested.get(field.name.removeprefix("attn_config."), told.get(field.name)) == field.default, field.name
    for key, value in family.fixed.items():
        if (family.model_type, key) not in _PUBLISHED and key not in ("new_decoder_architecture", "num_ln_in_parallel_attn"):
            assert nested.get(key.removeprefix("attn_config."), told.get(key)) == value, key
    names = () if family.state is None else attrs.astuple(family.state, recurse=False)
    for name, value in names:
        # An "auto" is gone once the config is made; the models here prove what it means.
        assert not name or value == "auto" or told[name] == value, name
    if family.norm:
        assert told[family.norm] == family.epsilon
    if type(family.head_dim) is int:
        assert told["head_dim"] == family.head_dim
    assert bool(getattr(default, "tie_word_embeddings", True)) == family.tied
    if family.rope:
        rope = told["rope_parameters"]
        whole = rope.get("full_attention", rope)
        assert whole["rope_theta"] == family.theta
        assert whole.get("partial_rotary_factor", 1.0) == (1.0 if family.partial is None else family.partial)
        assert all(rope[key] == value for key, value in family.scaling.items())
        assert rope.get("sliding_attention", {}).get("rope_theta") == family.local_theta
    for key, value in family.defaults.items():
        if family.key(key) in told and told[family.key(key)] is not None and key != "num_key_value_heads":
            assert told[family.key(key)] == value, key


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_of_the_folder(name: str, made: Any) -> None:
    _, folder, file = made(name)
    source, found = open_checkpoint(folder), open_checkpoint(file)
    assert set(found.names()) == set(source.names())
    if name == MULTIPLIED:
        wanted = 2 * 0.25 * as_float32(source.tensor("model.layers.1.self_attn.k_proj.weight"))
        np.testing.assert_array_equal(as_float32(found.tensor("model.layers.1.self_attn.k_proj.weight")), wanted)
        return
    for tensor in source.names():
        wanted, got = as_float32(source.tensor(tensor)), as_float32(found.tensor(tensor))
        assert got.shape == found.shape(tensor) == wanted.shape
        rounded = (name in PLUS_ONE and "norm" in tensor) or tensor.endswith("A_log")
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-7 if rounded else 0, err_msg=tensor)


@pytest.mark.parametrize("name", MODELS)
def test_the_config_makes_the_same_config_of_transformers(name: str, made: Any) -> None:
    model, _, file = made(name)
    wanted = model.config.to_dict()
    found = AutoConfig.for_model(**open_checkpoint(file).config).to_dict()
    for key in wanted:
        assert same_value(found.get(key), wanted[key], key, model), (key, found.get(key), wanted[key])


def same_value(found: Any, wanted: Any, key: str, model: PreTrainedModel) -> bool:
    if key in _SILENT:
        return True
    if str(key).endswith(("multiplier", "multipliers")) and model.config.model_type == "falcon_h1":  # the weights are multiplied
        return found in (1.0, [1.0] * len(wanted) if isinstance(wanted, list) else 1.0)
    if key == "rope_parameters" and "alpha" in wanted:  # the base is given as stretched as it is
        return bool(found["rope_type"] == "default" and found["rope_theta"] > wanted["rope_theta"])
    if key == "moe_topk" and isinstance(wanted, list):
        return bool(wanted == [found] * len(wanted))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(same_value(found.get(part), wanted[part], part, model) for part in wanted)
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return bool(np.float32(found) == np.float32(wanted))
    if key == "head_dim" and wanted is None:
        return found in (None, model.config.hidden_size // model.config.num_attention_heads)
    if key in ("num_mtp_layers", "num_nextn_predict_layers"):  # layers that the logits do not need
        return True
    # LFM2's MLP is given as wide as it is; and its layers by kind.
    if model.config.model_type == "lfm2" and key in ("intermediate_size", "block_auto_adjust_ff_dim", "full_attn_idxs"):
        return True
    if key == "num_experts_per_tok" and getattr(model.config, "num_local_experts", None) == 0:
        return True
    # Where the architecture does not read a key, its value says nothing; widths are there in full where the config implied them.
    if key in ("num_kv_heads", "multi_query") and model.config.model_type == "falcon":
        return True
    if key in ("n_inner", "num_ln_in_parallel_attn", "attention_factor") and wanted is None:
        return True
    if key in ("sliding_window", "max_window_layers", "sliding_window_pattern") and not found:
        return not wanted or not getattr(model.config, "use_sliding_window", False)
    return bool(found == wanted)


@pytest.mark.parametrize("name", MODELS)
def test_loaders_that_read_the_decoder_see_the_same_as_in_the_folder(name: str, made: Any) -> None:
    """``DecoderConfig`` of the file is that of the folder, and is refused where that is."""
    _, folder, file = made(name)
    try:
        wanted = open_checkpoint(folder).decoder
    except UnsupportedModel:
        with pytest.raises(UnsupportedModel):
            _ = open_checkpoint(file).decoder
    else:
        assert open_checkpoint(file).decoder == wanted


@pytest.mark.parametrize("name", MODELS)
def test_the_torch_loader_computes_what_transformers_computes_of_the_folder(name: str, made: Any, tmp_path: Path) -> None:
    model, _, file = made(name)
    tokens = prompt(60)
    engine = torch_engine(open_checkpoint(file), tmp_path)
    try:
        slot = engine.open()
        got = np.concatenate([engine.step([Row(slot, tokens[:37], 0, "all")])[0], engine.step([Row(slot, tokens[37:], 37, "all")])[0]])
    finally:
        engine.shutdown()
    assert apart(got, expected(model, tokens)) < 2e-6


def changed_copy(source: Path, target: Path, metadata: dict[str, int], tensors: dict[str, npt.NDArray[np.float32]], without: str) -> None:
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
        writer.add_uint32(key, value)
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
    source = open_checkpoint(folder)
    whole = {
        f"blk.{layer}.attn_kv_b.weight": as_float32(source.tensor(f"model.layers.{layer}.self_attn.kv_b_proj.weight")).copy()
        for layer in range(3)
    }
    widths = {"deepseek2.attention.head_count_kv": 4, "deepseek2.attention.key_length": 24, "deepseek2.attention.value_length": 24}
    changed_copy(file, tmp_path / "part.gguf", {}, {}, "attn_v_b")
    with pytest.raises(CheckpointError, match="only a part of"):
        open_checkpoint(tmp_path / "part.gguf")
    changed_copy(file, tmp_path / "no_keys.gguf", {}, {}, "attn_k_b")
    changed_copy(tmp_path / "no_keys.gguf", tmp_path / "neither.gguf", {}, {}, "attn_v_b")
    changed_copy(tmp_path / "neither.gguf", tmp_path / "old.gguf", widths, whole, "_length_mla")
    found = open_checkpoint(tmp_path / "old.gguf")
    assert set(found.names()) == set(source.names())
    for name in source.names():
        np.testing.assert_array_equal(as_float32(found.tensor(name)), as_float32(source.tensor(name)), err_msg=name)


def test_layers_that_predict_further_ahead_are_neither_read_nor_written(made: Any, tmp_path: Path) -> None:
    _, folder, file = made("glm4_moe")
    more = {"blk.3.attn_norm.weight": np.ones(64, np.float32), "blk.3.nextn.eh_proj.weight": np.ones((64, 128), np.float32)}
    counts = {"glm4moe.block_count": 4, "glm4moe.nextn_predict_layers": 1}
    changed_copy(file, tmp_path / "ahead.gguf", counts, more, "nothing")
    found, wanted = open_checkpoint(tmp_path / "ahead.gguf"), open_checkpoint(file)
    assert (list(found.names()), found.config) == (list(wanted.names()), wanted.config)
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors") | {"model.layers.3.eh_proj.weight": torch.ones(64, 128)}
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    written = write_gguf(open_checkpoint(tmp_path / "model"), tmp_path / "written.gguf", "f32")
    assert any("further ahead are left out" in note for note in written.notes)
    assert set(open_checkpoint(written.path).names()) == set(wanted.names())


def test_a_decay_rate_that_is_not_negative_is_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("mamba2")
    changed_copy(file, tmp_path / "x.gguf", {}, {"blk.0.ssm_a": np.ones((8, 1), np.float32)}, "blk.0.ssm_a")
    with pytest.raises(CheckpointError, match=r"'blk\.0\.ssm_a' that does not fit \(a decay rate is not below 0\)"):
        open_checkpoint(tmp_path / "x.gguf").tensor("backbone.layers.0.mixer.A_log")


def test_layers_of_different_heads_of_keys_are_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("lfm2")
    reader = gguf.GGUFReader(file)
    assert reader.fields["lfm2.attention.head_count_kv"].contents() == [0, 2, 0]
    changed_copy(file, tmp_path / "x.gguf", {"lfm2.attention.head_count_kv": 0}, {}, "nothing")
    with pytest.raises(UnsupportedModel, match="heads of keys in its layers"):
        open_checkpoint(tmp_path / "x.gguf")


def test_experts_chosen_in_a_way_that_transformers_does_not_know_are_refused(made: Any, tmp_path: Path) -> None:
    _, _, file = made("deepseek_v3")
    changed_copy(file, tmp_path / "x.gguf", {"deepseek2.expert_gating_func": 3}, {}, "nothing")
    with pytest.raises(UnsupportedModel, match="expert_gating_func = 3"):
        open_checkpoint(tmp_path / "x.gguf")


def torch_engine(checkpoint: Checkpoint, folder: Path) -> Any:
    from llmasos_backend_torch import Options
    from llmasos_backend_torch.loading import load

    context = SandboxContext(root=folder, limits=EngineLimits(threads=1, max_sequences=1))
    return load(checkpoint, Options(device="cpu", dtype="float32"), context)


@pytest.fixture(scope="module")
def llama_cpp_model() -> Iterator[Callable[[Path], Any]]:
    """Open a file with llama.cpp, which says nothing; closed at the end of the module."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is in the dependency group bench")

    @llama_cpp.llama_log_callback
    def quiet(level: int, text: bytes, data: Any) -> None: ...

    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    opened = []

    def make(path: Path, context: int = 128) -> Any:
        opened.append(llama_cpp.Llama(str(path), n_ctx=context, logits_all=True, verbose=False, n_threads=1))
        return opened[-1]

    yield make
    for model in opened:
        model.close()


def greedy_of(model: Any, tokens: list[int], count: int) -> list[int]:
    """llama.cpp's greedy continuation."""
    found: list[int] = []
    for token in model.generate(tokens, temp=0.0):
        found.append(int(token))
        if len(found) == count:
            break
    return found


@pytest.mark.peer
@pytest.mark.parametrize("name", [name for name in MODELS if name not in NOT_IN_LLAMA_CPP])
def test_llama_cpp_computes_what_transformers_computes(name: str, made: Any, llama_cpp_model: Any) -> None:
    """Logits agree as far as llama.cpp's 16-bit keys and values let them, and greedy tokens are the same."""
    model, _, file = made(name)
    tokens = prompt(40)
    peer = llama_cpp_model(file)
    peer.eval(tokens)
    wanted = expected(model, tokens)
    assert apart(np.array(peer._scores), wanted) < 2e-3
    peer.reset()
    found = greedy_of(peer, tokens, 12)
    # Tokens whose logits are nearer to one another than llama.cpp's rounding may change places.
    follow = expected(model, [*tokens, *found])[len(tokens) - 1 : -1]
    best = follow.max(axis=1)
    assert (best - follow[np.arange(len(found)), found] <= 5e-3 * np.abs(follow).max()).all()
    assert found[0] == int(wanted[-1].argmax())


@pytest.mark.peer
def test_llama_cpp_reads_the_tokenizer_that_was_written(made: Any, llama_cpp_model: Any) -> None:
    _, folder, file = made("llama")
    peer, own = llama_cpp_model(file), open_checkpoint(folder).tokenizer()
    for text in ("Hello, world 123", "  two\n\nlines", "今天天气很好"):
        assert peer.tokenize(text.encode(), add_bos=False, special=False) == own.encode(text, special=False)
    assert (peer.token_bos(), peer.token_eos()) == (256, 257)


@pytest.mark.peer
def test_llama_cpp_reads_the_unigram_tokenizer_that_was_written(tmp_path: Path, llama_cpp_model: Any) -> None:
    lines = [line for name in sorted(topics)[:25] for line in topics[name].splitlines() if line.strip()]
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=proto, model_type="unigram", vocab_size=500, hard_vocab_limit=False, minloglevel=2
    )
    sizes = {**_TIED, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").write_bytes(proto.getvalue())
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    write_gguf(open_checkpoint(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    peer, own = llama_cpp_model(tmp_path / "x.gguf"), open_checkpoint(tmp_path / "x.gguf").tokenizer()
    for text in (*lines[100:130], "  two   spaces ", "\ufb01ne \u00bd"):
        assert peer.tokenize(text.encode(), add_bos=False, special=False) == own.encode(text, special=False), text


@pytest.mark.peer
@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_decodes_every_type_to_the_weights_that_we_read(kind: str, tmp_path: Path, llama_cpp_model: Any) -> None:
    """The bound leaves room for llama.cpp's 8-bit activations, and none for a scale or a code out of place."""
    torch.manual_seed(1)
    sizes = {**_SIZES, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    model.save_pretrained(tmp_path / "model")
    byte_level_tokenizer(tmp_path / "model")
    write_gguf(open_checkpoint(tmp_path / "model"), tmp_path / "x.gguf", kind)
    found = open_checkpoint(tmp_path / "x.gguf")
    model.load_state_dict({name: torch.from_numpy(as_float32(found.tensor(name)).copy()) for name in found.names()})
    tokens = prompt(40)
    peer = llama_cpp_model(tmp_path / "x.gguf")
    peer.eval(tokens)
    assert apart(np.array(peer._scores), expected(model, tokens)) < 0.03


@pytest.mark.peer
@pytest.mark.model
def test_llama_cpp_reads_the_default_model_as_it_reads_its_source(smollm2_gguf: Path, tmp_path: Path, llama_cpp_model: Any) -> None:
    text = b"One, two, three, four, five, six, seven,"
    source = llama_cpp_model(smollm2_gguf)
    tokens = source.tokenize(text)
    wanted = greedy_of(source, tokens, 12)
    for kind in ("q4_1", "q8_0"):
        write_gguf(open_checkpoint(smollm2_gguf), tmp_path / f"{kind}.gguf", kind)
        peer = llama_cpp_model(tmp_path / f"{kind}.gguf")
        assert peer.tokenize(text) == tokens
        assert greedy_of(peer, tokens, 12) == wanted

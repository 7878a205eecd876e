"""Tiny random models of every architecture of GGUF that is read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llmasos_tokenizing.pieces import SPELLING

_VOCAB = {"vocab_size": 288, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": None}
SIZES = {
    **_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
TIED = {**SIZES, "tie_word_embeddings": True}
_WIDTH = {"head_dim": 16}
_GPT = {**_VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MLP_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ROUTED = {
    **SIZES, "num_hidden_layers": 3, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
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
    **SIZES, "layer_types": ["linear_attention", "full_attention"], "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2,
    "shared_intermediate_size": 48, "attention_multiplier": 0.2,
}  # fmt: skip
_FALCON_H1 = {
    **SIZES, **_WIDTH, "mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_state": 16, "mamba_n_groups": 2,
}  # fmt: skip
_NEMOTRON_H = {
    **{key: value for key, value in SIZES.items() if key != "num_hidden_layers"}, **_WIDTH, "ssm_state_size": 16, "mamba_num_heads": 8,
    "mamba_head_dim": 16, "n_groups": 2,
}  # fmt: skip
_DELTA = {
    **SIZES, **_WIDTH, "num_hidden_layers": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}  # fmt: skip
#: llama.cpp ends the process where sections are more than a head has.
_SECTIONS = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "mrope_section": [1, 1, 0]}
_FALCON = {**_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
_GEMMA4 = {
    **TIED, **_WIDTH, "num_hidden_layers": 6, "global_head_dim": 32, "sliding_window": 8, "vocab_size_per_layer_input": 288,
    "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention", "full_attention"], "final_logit_softcapping": 30.0,
}  # fmt: skip
_GEMMA3N = {**TIED, **_WIDTH, "num_hidden_layers": 22, "num_kv_shared_layers": 2, "sliding_window": 8, "vocab_size_per_layer_input": 288}
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
    "llama": ("llama", SIZES),
    "llama, tied": ("llama", TIED),
    "llama, scaled as 3.1": ("llama", {**SIZES, "head_dim": 64, "rope_parameters": _LLAMA3}),
    "llama, linear": ("llama", {**SIZES, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama, biases": ("llama", {**SIZES, "attention_bias": True}),
    "mistral": ("mistral", {**SIZES, "sliding_window": None}),
    "mistral, window": ("mistral", {**SIZES, "sliding_window": 9}),
    "internlm3": ("internlm3", {**SIZES, **_WIDTH}),
    "iquestcoder": ("iquestcoder", {**SIZES, **_WIDTH}),
    "mixtral": ("mixtral", {**SIZES, **_EXPERTS}),
    "ministral3": (
        "ministral3",
        {
            **SIZES,
            **_WIDTH,
            "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25, "beta_fast": 24.0},
        },
    ),
    "qwen2": ("qwen2", SIZES),
    "qwen2, yarn": ("qwen2", {**SIZES, "rope_parameters": _YARN}),
    "qwen3": ("qwen3", {**SIZES, "head_dim": 24}),
    "qwen2_moe": ("qwen2_moe", {**SIZES, **_MLP_EXPERTS, "shared_expert_intermediate_size": 48}),
    "qwen3_moe": ("qwen3_moe", {**SIZES, **_WIDTH, **_MLP_EXPERTS, "norm_topk_prob": True}),
    "gemma": ("gemma", {**TIED, **_WIDTH}),
    "gemma2": ("gemma2", {**TIED, **_WIDTH, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3": ("gemma3_text", {**TIED, **_WIDTH, "num_hidden_layers": 7, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3n": ("gemma3n_text", _GEMMA3N),
    "gemma4": ("gemma4_text", {**_GEMMA4, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 32, "use_double_wide_mlp": True}),
    "gemma4, unified": (
        "gemma4_unified_text",
        {
            **{key: value for key, value in _GEMMA4.items() if "per_layer" not in key},
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
    ),
    "gemma4, experts": (
        "gemma4_text",
        {
            **_GEMMA4,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 262144,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
    ),
    "phi": ("phi", SIZES),
    "phi3": ("phi3", SIZES),
    "phi3, window": ("phi3", {**SIZES, "sliding_window": 9}),
    "phi3, longrope": ("phi3", {**SIZES, "original_max_position_embeddings": 32, "rope_parameters": _LONGROPE}),
    "phimoe": ("phimoe", {**SIZES, **_EXPERTS, "attention_bias": True, "lm_head_bias": True}),
    "granite": (
        "granite",
        {**SIZES, "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    "granitemoe": ("granitemoe", {**SIZES, **_EXPERTS, "attention_multiplier": 0.2}),
    "granitemoeshared": ("granitemoeshared", {**SIZES, **_EXPERTS, "shared_intermediate_size": 48}),
    "smollm3": ("smollm3", {**TIED, "num_hidden_layers": 5}),
    "arcee": ("arcee", SIZES),
    "apertus": ("apertus", {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "apertus, scaled": ("apertus", {**SIZES, "hidden_size": 256, "rope_parameters": _LLAMA3}),
    "seed_oss": ("seed_oss", {**SIZES, **_WIDTH}),
    "ernie4_5": ("ernie4_5", {**SIZES, **_WIDTH}),
    "olmo": ("olmo", {**SIZES, "clip_qkv": 0.5}),
    "olmo2": ("olmo2", SIZES),
    "olmo3": ("olmo3", {**SIZES, "num_hidden_layers": 5, "sliding_window": 8}),
    "olmoe": ("olmoe", {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "starcoder2": ("starcoder2", SIZES),
    "stablelm": ("stablelm", {**SIZES, "use_qkv_bias": True}),
    "stablelm, norms": ("stablelm", {**SIZES, "qk_layernorm": True}),
    "stablelm, parallel": ("stablelm", {**SIZES, "use_parallel_residual": True}),
    "nemotron": ("nemotron", {**SIZES, **_WIDTH}),
    "cohere": ("cohere", TIED),
    "cohere, norms": ("cohere", {**TIED, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**TIED, **_WIDTH, "num_hidden_layers": 5, "sliding_window": 8}),
    "glm": ("glm", {**SIZES, **_WIDTH}),
    "glm4": ("glm4", {**SIZES, **_WIDTH}),
    "exaone": ("exaone", SIZES),
    "exaone4": ("exaone4", {**SIZES, "sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "exaone4, windows": ("exaone4", {**SIZES, "num_hidden_layers": 5, "sliding_window": 8}),
    "gpt_oss": ("gpt_oss", {**SIZES, **_WIDTH, **_EXPERTS, "sliding_window": 8}),
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
        {**SIZES, "num_hidden_layers": 3, "moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 32},
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
        {**SIZES, **_WIDTH, **_EXPERTS, "num_hidden_layers": 5, "intermediate_size_mlp": 80, "interleave_moe_layer_step": 2},
    ),
    "hunyuan": ("hunyuan_v1_dense", {**SIZES, **_WIDTH}),
    "hunyuan, alpha": (
        "hunyuan_v1_dense",
        {**SIZES, "head_dim": 24, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}},
    ),
    "hunyuan_moe": ("hunyuan_v1_moe", {**SIZES, **_WIDTH, "num_experts": 4, "moe_topk": [2, 2]}),
    "jamba": (
        "jamba",
        {
            **SIZES,
            "num_hidden_layers": 4,
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
        },
    ),
    "lfm2": (
        "lfm2",
        {**TIED, "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    ),
    "lfm2, adjusted": ("lfm2", {**TIED, "full_attn_idxs": [1]}),
    "lfm2_moe": (
        "lfm2_moe",
        {**TIED, **_MLP_EXPERTS, "num_hidden_layers": 3, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]},
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
    "nemotron_h": ("nemotron_h", {**_NEMOTRON_H, "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]}),
    "nemotron_h, experts": (
        "nemotron_h",
        {
            **_NEMOTRON_H,
            "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 48,
            "moe_latent_size": 24,
            "routed_scaling_factor": 1.5,
        },
    ),
    "qwen3_next": ("qwen3_next", {**_DELTA, **_MLP_EXPERTS, "shared_expert_intermediate_size": 48}),
    "qwen3_5": ("qwen3_5_text", {**_DELTA, "rope_parameters": _SECTIONS}),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        {
            **{key: _DELTA[key] for key in _DELTA if key != "intermediate_size"},
            **_MLP_EXPERTS,
            "shared_expert_intermediate_size": 48,
            "rope_parameters": _SECTIONS,
        },
    ),
    "mimo_v2_flash": (
        "mimo_v2_flash",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "head_dim": 24,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {**_HALF_ROPE, "rope_theta": 5e6},
                "sliding_attention": {**_HALF_ROPE, "rope_theta": 1e4},
            },
        },
    ),
    "jais2": ("jais2", {**SIZES, **_WIDTH}),
    "minimax_m2": ("minimax_m2", {**SIZES, **_WIDTH, **_EXPERTS, "rope_parameters": {**_HALF_ROPE, "rope_theta": 5e6}}),
    "glm4_moe_lite": (
        "glm4_moe_lite",
        {**{key: value for key, value in _LATENT.items() if key != "first_k_dense_replace"}, "n_group": 4, "topk_group": 2},
    ),
    "youtu": ("youtu", {key: _LATENT[key] for key in (*SIZES, *_PROJECTIONS)}),
    "exaone_moe": (
        "exaone_moe",
        {**SIZES, **_WIDTH, **_MLP_EXPERTS, "num_hidden_layers": 5, "num_shared_experts": 2, "sliding_window": 8},
    ),
    "solar_open": (
        "solar_open",
        {**{key: value for key, value in _ROUTED.items() if key != "first_k_dense_replace"}, **_WIDTH},
    ),
    "afmoe": (
        "afmoe",
        {**SIZES, **_WIDTH, **_MLP_EXPERTS, "num_hidden_layers": 5, "num_dense_layers": 2, "sliding_window": 8, "mup_enabled": True},
    ),
    "minicpm3": ("minicpm3", {**{key: _LATENT[key] for key in (*SIZES, *_PROJECTIONS)}, "tie_word_embeddings": True}),
    "falcon_mamba": ("falcon_mamba", {**_VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "bloom": ("bloom", {**_VOCAB, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {**_VOCAB, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
}


def tiny(name: str) -> PreTrainedModel:
    """A random model whose logits are far apart, with transformers' own attention."""
    kind, changes = MODELS[name]
    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **changes)
    times = 1.0 if kind == "gemma3n_text" else 3.0  # of 22 layers, in which rounding grows
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(times) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
        if kind in ("gemma3n_text", "gemma4_text", "gemma4_unified_text"):
            for part, tensor in (*model.named_parameters(), *model.named_buffers()):
                if part.endswith("layer_scalar"):
                    tensor.add_(torch.randn_like(tensor) * 0.1)
                if part.endswith("q_norm.weight"):
                    tensor.mul_(0.25)  # as trained models have it, which divide queries by nothing else
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

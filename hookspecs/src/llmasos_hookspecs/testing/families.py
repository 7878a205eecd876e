"""Configs of tiny models of every family that ``DecoderConfig`` describes, for tests that compare a decoder with transformers."""

from __future__ import annotations

from typing import Any, Final

from llmasos_hookspecs.decoder import DECODER_FAMILIES

#: Sizes of a tiny model of any family.
FAMILY_SIZES: Final[dict[str, Any]] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

_WINDOW: Final = {"sliding_window": 8}
_QWEN: Final = {**_WINDOW, "use_sliding_window": True, "max_window_layers": 2}
_BIASES: Final = {"attention_bias": True, "mlp_bias": True}
_MULTIPLIERS: Final = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}

#: Model type -> changes of its config, so that each of its switches acts within 64 tokens in one case at least.
FAMILY_CASES: Final[list[tuple[str, dict[str, Any]]]] = [
    *((kind, {"attention_multiplier": 0.25} if kind == "granite" else {}) for kind in DECODER_FAMILIES),
    ("llama", _BIASES),
    ("mistral", _WINDOW),
    ("ministral", {**_WINDOW, "layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("qwen2", _QWEN),
    ("qwen2", {**_QWEN, "layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("qwen3", {**_QWEN, **_BIASES}),
    ("gemma", {"attention_bias": True, "hidden_act": "gelu"}),
    ("gemma2", {**_WINDOW, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    ("gemma3_text", {**_WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 20}),
    ("granite", {**_MULTIPLIERS, **_BIASES}),
    ("smollm3", {**_WINDOW, "use_sliding_window": True, **_BIASES}),
    ("smollm3", {"no_rope_layers": [1, 0, 0, 1]}),
    ("olmo2", {"attention_bias": True}),
    ("olmo3", _WINDOW),
    ("starcoder2", _WINDOW),
    ("starcoder2", {"use_bias": False, "hidden_act": "relu"}),
    ("stablelm", {"use_qkv_bias": True, "use_parallel_residual": True}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("cohere", {"attention_bias": True}),
    ("cohere2", {**_WINDOW, "sliding_window_pattern": 2}),
    ("nemotron", _BIASES),
    ("seed_oss", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    ("arcee", _BIASES),
    ("exaone4", {**_WINDOW, "sliding_window_pattern": 2}),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
    ("ernie4_5", {"use_bias": True}),
]

_ORIGINAL: Final = {"rope_theta": 1e4, "original_max_position_embeddings": 16}
_LONG: Final = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}

#: Model type -> rope_parameters: each scaling, with a switch at 16 tokens where it has one.
ROPE_CASES: Final[list[tuple[str, dict[str, Any]]]] = [
    ("llama", {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
    ("llama", {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}),
    ("llama", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_ORIGINAL}),
    ("llama", {"rope_type": "yarn", "factor": 4.0, **_ORIGINAL}),
    ("qwen2", {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.1, **_ORIGINAL}),
    ("qwen3", {"rope_type": "yarn", "factor": 4.0, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.4, **_ORIGINAL}),
    ("phi3", {"rope_type": "longrope", **_LONG, **_ORIGINAL}),
    ("llama", {"rope_type": "longrope", "factor": 3.0, **_LONG, **_ORIGINAL}),
    ("stablelm", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
]

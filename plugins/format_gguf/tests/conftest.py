"""GGUF files of tiny models of every family, as llama.cpp's converter would write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

#: Hugging Face's names in llama.cpp's order of words.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA_LAYER = LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str, kind: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{leaf}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{(GEMMA_LAYER if kind == 'gemma2' else LAYER)[part]}.{leaf}"


def interleaved(weights: np.ndarray, heads: int) -> np.ndarray:
    """The rows of q or k in llama.cpp's order: the halves of each head interleaved."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    """Write a transformers model as a GGUF file; ``kind`` says how its matrices are stored."""

    def write(
        path: Path,
        model: Any,
        kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
        metadata: Callable[[gguf.GGUFWriter], None] | None = None,
        arch: str | None = None,
        extra: dict[str, np.ndarray] | None = None,
    ) -> Path:
        config, family = model.config, model.config.model_type
        arch = arch or ("llama" if family == "mistral" else family)
        writer = gguf.GGUFWriter(path, arch)
        if family == "mistral":
            writer.add_name("Tiny Mistral")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        if family == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
            writer.add_sliding_window(config.sliding_window)
        if metadata is not None:
            metadata(writer)
        for name, parameter in model.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            array = parameter.numpy().copy()
            if arch in ("llama", "mistral") and "q_proj" in name:
                array = interleaved(array, config.num_attention_heads)
            elif arch in ("llama", "mistral") and "k_proj" in name:
                array = interleaved(array, config.num_key_value_heads)
            elif family == "gemma2" and "norm" in name:
                array = array + 1
            stored = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(gguf_name(name, family), gguf.quantize(array, stored), raw_dtype=stored)
        for name, array in (extra or {}).items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write

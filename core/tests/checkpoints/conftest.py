"""Tiny models of every family, and GGUF files of them as llama.cpp's converter would write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llmasos_hookspecs import QuantizedTensor

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
def tiny_model() -> Callable[..., Any]:
    """Make a random transformers model: ``tiny_model("qwen3", tie_word_embeddings=True)``."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def make(kind: str, **changes: Any) -> Any:
        sizes = {
            "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 20000.0, "rms_norm_eps": 1e-5,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "tie_word_embeddings": False,
        }  # fmt: skip
        if kind == "gemma2":
            sizes |= {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, "sliding_window": 64}
        config = CONFIG_MAPPING[kind](**(sizes | changes))
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    return make


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


@pytest.fixture(scope="session")
def quantize() -> Callable[..., QuantizedTensor]:
    """Round a matrix to the nearest code, symmetric or not."""

    def make(weights: np.ndarray, bits: int = 4, group: int = 32, symmetric: bool = True) -> QuantizedTensor:
        rows, columns = weights.shape
        padded = np.pad(weights, ((0, 0), (0, -columns % group)), mode="edge").reshape(rows, -1, group)
        top = 2**bits - 1
        if symmetric:
            scales = np.maximum(np.abs(padded).max(-1), 1e-8) / (2 ** (bits - 1) - 1)
            codes, zeros = np.round(padded / scales[..., None]) + 2 ** (bits - 1), None
        else:
            low, high = np.minimum(padded.min(-1), 0), np.maximum(padded.max(-1), 0)
            scales = np.maximum(high - low, 1e-8) / top
            zeros = np.clip(np.round(-low / scales), 0, top).astype(np.uint8)
            codes = np.round(padded / scales[..., None]) + zeros[..., None]
        codes = np.clip(codes, 0, top).astype(np.uint8).reshape(rows, -1)[:, :columns]
        return QuantizedTensor(codes=np.ascontiguousarray(codes), scales=scales.astype(np.float32), bits=bits, group=group, zeros=zeros)

    return make


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Callable[..., Any]) -> Callable[..., Path]:
    """Save a tiny model as a Hugging Face folder."""

    def save(kind: str = "llama", shard: str | None = None, **changes: Any) -> Path:
        folder = tmp_path / f"{kind}-saved"
        tiny_model(kind, **changes).save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
        return folder

    return save


@pytest.fixture
def written_outside(tmp_path: Path) -> Iterator[Path]:
    """A file beside the checkpoint that no checkpoint may reach."""
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({"model_type": "llama", "secret": True}))
    yield outside
    assert json.loads(outside.read_text())["secret"] is True

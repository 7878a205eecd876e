"""GGUF metadata as the ``config.json`` that transformers would have for the same model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from llmasos.runtime.checkpoint import gguf_metadata as meta
from llmasos.runtime.checkpoint.gguf_header import GGUFHeader, StringArray
from llmasos_hookspecs import UnsupportedModel

#: ``model_type`` -> the class that transformers loads it with.
CLASSES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
}

#: Tokens that end a turn of a chat. A file names one end-of-sequence token and not always these, though a chat model's answer
#: ends with them; llama.cpp finds them by their text as well.
_END_OF_TURN: Final = frozenset({"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"})

#: Gemma 2 with this many layers (27B) scales its queries by the width a head would have if heads shared the hidden size.
_GEMMA2_27B_LAYERS: Final = 46


def config_of(header: GGUFHeader) -> dict[str, Any]:
    """The config of the model in a GGUF file.

    Raises:
        UnsupportedModel: the architecture is none of llama, mistral, qwen2, qwen3 and gemma2, or part of a head is rotated only.
        CheckpointError: a size is missing or impossible.
    """
    arch = meta.architecture(header)
    kind = _model_type(header, arch)
    hidden, heads = meta.count(header, f"{arch}.embedding_length"), meta.count(header, f"{arch}.attention.head_count")
    head_dim = _head_dim(header, arch, hidden, heads)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    config: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": _vocab_size(header, arch),
        "hidden_size": hidden,
        "intermediate_size": meta.count(header, f"{arch}.feed_forward_length"),
        "num_hidden_layers": meta.count(header, f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.count(header, f"{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": meta.count(header, f"{arch}.context_length", 2048),
        "rms_norm_eps": _shortest(meta.number(header, f"{arch}.attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": _shortest(meta.number(header, f"{arch}.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": meta.token_id(header, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _eos(header),
        "pad_token_id": meta.token_id(header, "tokenizer.ggml.padding_token_id"),
        "dtype": _dtype(header),
    }
    scaling = _rope_scaling(header, arch, config)
    if scaling is not None:
        config["rope_scaling"] = scaling
    if kind == "gemma2":
        config |= _gemma2(header, arch, config)
    else:
        config["hidden_act"] = "silu"
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors and kind != "qwen2"
        if kind == "llama":
            config["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
        if kind == "mistral":
            # llama.cpp runs these with full attention, whatever window the file mentions.
            config["sliding_window"] = None
    return config


def _model_type(header: GGUFHeader, arch: str) -> str:
    if arch not in CLASSES:
        raise UnsupportedModel(f"{header.path} holds a model of the architecture {arch[:40]!r}, and {', '.join(CLASSES)} are read.")
    names = (meta.text(header, f"general.{key}") or "" for key in ("name", "basename"))
    # llama.cpp converts Mistral as llama, whose mathematics it shares; only the name tells.
    if arch == "llama" and any("mistral" in name.lower() for name in names):
        return "mistral"
    return arch


def _vocab_size(header: GGUFHeader, arch: str) -> int:
    """Rows of the embedding: the metadata may count the tokenizer's tokens without the padding."""
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return meta.count(header, f"{arch}.vocab_size", len(tokens) if isinstance(tokens, StringArray) else None)


def _head_dim(header: GGUFHeader, arch: str, hidden: int, heads: int) -> int:
    head_dim = meta.count(header, f"{arch}.attention.key_length", max(1, hidden // heads))
    value_dim = meta.count(header, f"{arch}.attention.value_length", head_dim)
    rotated = meta.count(header, f"{arch}.rope.dimension_count", head_dim)
    if f"{arch}.attention.key_length" not in header.metadata and rotated != head_dim:
        head_dim = value_dim = rotated
    if rotated != head_dim or value_dim != head_dim:
        raise UnsupportedModel(
            f"{header.path} rotates {rotated} of {head_dim} elements a head with values of {value_dim}; only whole, equal heads are read."
        )
    return head_dim


def _eos(header: GGUFHeader) -> int | list[int] | None:
    """End-of-sequence tokens: those that the metadata names, and control tokens whose text says that a turn ends."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [token for key in keys if (token := meta.token_id(header, f"tokenizer.ggml.{key}")) is not None]
    # A vocabulary whose unknown or first token is also called so does not mean the end by it (SmolLM2's <|endoftext|>).
    taken = {meta.token_id(header, f"tokenizer.ggml.{key}") for key in ("bos_token_id", "unknown_token_id")}
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, StringArray):
        kinds = meta.numbers(header, "tokenizer.ggml.token_type", len(tokens))
        wanted = {name.encode() for name in _END_OF_TURN}
        for index, raw in enumerate(tokens.raw()):
            if raw in wanted and index not in taken and (kinds is None or kinds[index] in (3, 4)):
                found.append(index)
    unique = list(dict.fromkeys(found))
    return unique[0] if len(unique) == 1 else unique or None


def _dtype(header: GGUFHeader) -> str:
    """The type to compute in without loss: the file's own where its matrices are all of one 16-bit type."""
    kinds = {tensor.kind for tensor in header.tensors if len(tensor.shape) > 1}
    if kinds == {GGMLQuantizationType.BF16}:
        return "bfloat16"
    return "float16" if kinds == {GGMLQuantizationType.F16} else "float32"


def _gemma2(header: GGUFHeader, arch: str, config: Mapping[str, Any]) -> dict[str, Any]:
    wide = config["num_hidden_layers"] == _GEMMA2_27B_LAYERS
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"],
        "attn_logit_softcapping": meta.number(header, f"{arch}.attn_logit_softcapping", 50.0),
        "final_logit_softcapping": meta.number(header, f"{arch}.final_logit_softcapping", 30.0),
        "sliding_window": meta.count(header, f"{arch}.attention.sliding_window", 4096),
    }


def _rope_scaling(header: GGUFHeader, arch: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    for tensor in header.tensors:
        if tensor.name == "rope_freqs.weight":
            raw = header.data[tensor.start : tensor.start + tensor.nbytes]
            if tensor.kind != GGMLQuantizationType.F32 or tensor.shape != (config["head_dim"] // 2,):
                raise UnsupportedModel(f"{header.path} has a rope_freqs.weight of a form that is not read.")
            return llama3_scaling(raw.copy().view(np.float32), config["rope_theta"], str(header.path))
    kind = meta.text(header, f"{arch}.rope.scaling.type")
    factor_key = f"{arch}.rope.scaling.factor" if kind is not None else f"{arch}.rope.scale_linear"
    if kind == "none" or (kind is None and factor_key not in header.metadata):
        return None
    factor = _shortest(meta.number(header, factor_key, 1.0))
    if kind in (None, "linear"):
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if (key := f"{arch}.rope.scaling.original_context_length") in header.metadata:
        scaling["original_max_position_embeddings"] = meta.count(header, key)
    return scaling


def llama3_scaling(divisors: npt.NDArray[np.float32], theta: float, where: str) -> dict[str, Any]:
    """Llama 3's rope scaling, recovered from the divisors of its frequencies that llama.cpp stores in place of it.

    ``divisors``: float32 [head_dim / 2]. High frequencies have the divisor 1, low ones ``factor``; between them
    ``1 / divisor = (1 - s) / factor + s`` with ``s = (original / wavelength - low) / (high - low)``. That is a line in
    1 / wavelength with two unknowns, so that ``low`` may be taken as 1, as all of Meta's models have it.

    Raises:
        UnsupportedModel: the divisors are not of this form.
    """
    wavelengths = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    factor = float(f"{divisors.max():.5g}")  # without the noise of the float32 division that made it
    candidates = [(4.0, 8192)]
    between = (divisors > 1.001) & (divisors < 0.999 * factor)
    if factor > 1 and between.sum() >= 2:
        smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        slope, offset = np.polyfit(1 / wavelengths[between], smooth, 1)
        if slope > 0 > offset:
            candidates.append((1 - 1 / offset, round(slope / -offset)))
    for high, original in candidates:
        smooth = np.clip((original / wavelengths - 1) / (high - 1), 0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if np.allclose(expected, divisors, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": round(high, 4),
                "original_max_position_embeddings": original,
            }
    raise UnsupportedModel(f"{where} has rope_freqs.weight that are not of Llama 3's form, which is the only one read.")


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for the file's 9.999999747378752e-06."""
    return float(str(np.float32(value)))

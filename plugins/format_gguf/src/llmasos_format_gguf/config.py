"""GGUF metadata as the ``config.json`` that transformers would have for the same model."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from gguf.constants import GGMLQuantizationType, Keys

from llmasos_format_gguf import alone, altup, metadata as meta, two_widths
from llmasos_format_gguf.dense import read_mlp_kinds
from llmasos_format_gguf.families import family_of
from llmasos_format_gguf.family import Family, Field
from llmasos_format_gguf.header import GGUFHeader, StringArray
from llmasos_format_gguf.latent import read_latent, rotated_width
from llmasos_format_gguf.rope import read_rope
from llmasos_format_gguf.state import jamba_periods, read_groups, read_state
from llmasos_format_gguf.t5 import ARCH as T5, is_t5, t5_config
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Tokens that end a turn of a chat. A file names one end-of-sequence token and not always these, though a chat model's answer
#: ends with them; llama.cpp finds them by their text as well.
_END_OF_TURN: Final = frozenset({"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"})

#: Gemma 2 and 3 with this many layers (27B) scale their queries by the width a head would have if heads shared the hidden size.
_27B_LAYERS: Final = {"gemma2": 46, "gemma3_text": 62}

_LOCAL: Final = "sliding_attention"

#: More layers than any model has: a number that is expanded into a list for each layer is held against it first.
MAX_LAYERS: Final = 4096


def config_of(header: GGUFHeader) -> dict[str, Any]:
    """The config of the model in a GGUF file.

    Raises:
        UnsupportedModel: the architecture is not in the table of families, or heads are of a form that it does not have.
        CheckpointError: a size is missing or impossible.
    """
    if is_t5(header):
        tokens = {"eos_token_id": _eos(header), "pad_token_id": meta.token_id(header, "tokenizer.ggml.padding_token_id")}
        return t5_config(header, {"vocab_size": _vocab_size(header, T5), **tokens, "dtype": _dtype(header)})
    family = family_of(header)
    arch, sizes = family.arch, _sizes(header, family)
    head_dim = _head_dim(header, family, sizes["hidden_size"], sizes["num_attention_heads"]) if family.attention else 0
    tensors = {tensor.name for tensor in header.tensors}
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": _vocab_size(header, arch),
        **{family.key(name): value for name, value in sizes.items()},
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": meta.token_id(header, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _eos(header),
        "pad_token_id": meta.token_id(header, "tokenizer.ggml.padding_token_id"),
        "dtype": _dtype(header),
    }
    if family.head_dim:
        config["head_dim"] = head_dim
    if family.value_dim is not None:
        config[family.value_dim[0]] = meta.count(header, Keys.Attention.VALUE_LENGTH.format(arch=arch), head_dim)
    if family.norm:
        key = Keys.Attention.LAYERNORM_RMS_EPS if family.rms else Keys.Attention.LAYERNORM_EPS
        config[family.norm] = meta.shortest(meta.number(header, key.format(arch=arch), family.epsilon))
    for name, value in family.fixed.items():
        _put(config, name, value)
    for name, mark in family.present.items():
        config[name] = mark in tensors or f"blk.0.{mark}" in tensors
    for field in family.fields:
        _put(config, field.name, _field(header, arch, field))
    if family.rope:
        config |= _rope(header, family, head_dim)
    return config | _special(header, family, config, head_dim)


def layers_ahead(header: GGUFHeader, family: Family) -> int:
    """How many of the file's last layers predict tokens further ahead; the logits of the next token do not need them."""
    return meta.natural(header, Keys.LLM.NEXTN_PREDICT_LAYERS.format(arch=family.arch), 0) if family.ahead else 0


def _sizes(header: GGUFHeader, family: Family) -> dict[str, int]:
    """The sizes that every config has, by their common names."""
    arch = family.arch
    if not family.attention:
        return {
            "hidden_size": meta.count(header, Keys.LLM.EMBEDDING_LENGTH.format(arch=arch)),
            "num_hidden_layers": _layers(header, family),
        }
    heads = meta.count(header, Keys.Attention.HEAD_COUNT.format(arch=arch))
    layers = _layers(header, family)
    sizes = {
        "hidden_size": meta.count(header, Keys.LLM.EMBEDDING_LENGTH.format(arch=arch)),
        **({"intermediate_size": _feed_forward(header, family, layers)} if family.mlp else {}),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": meta.count(header, Keys.LLM.CONTEXT_LENGTH.format(arch=arch), 2048),
    }
    if family.latent:
        return sizes | {"num_key_value_heads": heads}  # the file counts the one latent vector, or the heads
    if family.hybrid:
        return sizes | {"num_key_value_heads": read_groups(header, family, sizes["num_hidden_layers"])[0]}
    if family.two_widths:
        return sizes | two_widths.read_groups(header, family, _layer_types(header, family, layers, 1))
    if family.local_groups > 1:
        return sizes | {"num_key_value_heads": _groups_by_window(header, family, layers)}
    groups = meta.count(header, Keys.Attention.HEAD_COUNT_KV.format(arch=arch), family.kv_heads or heads)
    if family.grouped:
        sizes["num_key_value_heads"] = groups
    elif groups != heads:
        raise UnsupportedModel(f"{header.path} has {groups} heads of keys for {heads} of queries, which a {family.model_type} cannot have.")
    return sizes


def _groups_by_window(header: GGUFHeader, family: Family, layers: int) -> int:
    """Heads of keys in layers that attend to all, of a family whose layers with a window have more."""
    key, total = Keys.Attention.HEAD_COUNT_KV.format(arch=family.arch), layers + layers_ahead(header, family)
    counts = meta.naturals(header, key, total)
    more = [family.local_groups if kind == _LOCAL else 1 for kind in _layer_types(header, family, layers, 1)]
    shares = {count / times for count, times in zip(counts[:layers], more, strict=True)}
    if len(shares) != 1 or not (found := shares.pop()).is_integer() or not 0 < found < 2**20:
        raise UnsupportedModel(
            f"{header.path} has other than {family.local_groups} times as many heads of keys in layers with a window, which no "
            f"{family.model_type} has."
        )
    return int(found)


def _feed_forward(header: GGUFHeader, family: Family, layers: int) -> int:
    """The width of the MLP."""
    if family.alone:
        return max(alone.feed_forward_widths(header, family, layers))
    if family.two_widths:
        return two_widths.read_feed_forward(header, family, layers)
    return meta.count(header, Keys.LLM.FEED_FORWARD_LENGTH.format(arch=family.arch))


def _layers(header: GGUFHeader, family: Family) -> int:
    total = meta.count(header, Keys.LLM.BLOCK_COUNT.format(arch=family.arch))
    if total > MAX_LAYERS:
        raise CheckpointError(f"{header.path} says that it has {total} layers, more than any model; get it again.")
    if (layers := total - layers_ahead(header, family)) < 1:
        raise CheckpointError(f"{header.path} says that all of its layers predict further ahead; get it again.")
    return layers


def _vocab_size(header: GGUFHeader, arch: str) -> int:
    """Rows of the embedding: the metadata may count the tokenizer's tokens without the padding."""
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return meta.count(header, f"{arch}.vocab_size", len(tokens) if isinstance(tokens, StringArray) else None)


def _head_dim(header: GGUFHeader, family: Family, hidden: int, heads: int) -> int:
    if family.latent:
        return rotated_width(header, family.arch)
    if family.two_widths:
        return two_widths.read_head_dim(header, family)
    arch, told = family.arch, Keys.Attention.KEY_LENGTH.format(arch=family.arch)
    shared = max(1, hidden // heads)
    head_dim = meta.count(header, told, shared)
    value_dim = meta.count(header, Keys.Attention.VALUE_LENGTH.format(arch=arch), head_dim)
    rotated = meta.count(header, Keys.Rope.DIMENSION_COUNT.format(arch=arch), head_dim) if family.rope else head_dim
    partial = family.partial is not None
    if told not in header.metadata and rotated != head_dim and not partial and family.head_dim:
        head_dim = value_dim = rotated
    if family.value_dim is not None:
        value_dim = head_dim  # told apart
    if value_dim != head_dim or rotated > head_dim or (rotated != head_dim and not partial):
        raise UnsupportedModel(
            f"{header.path} rotates {rotated} of {head_dim} elements a head with values of {value_dim}; a {family.model_type} cannot."
        )
    if not family.head_dim and head_dim != shared:
        raise UnsupportedModel(f"{header.path} has heads of {head_dim} elements; a {family.model_type} of this size has {shared}.")
    return head_dim


def _field(header: GGUFHeader, arch: str, field: Field) -> Any:
    key = field.key.format(arch=arch)
    if key not in header.metadata:
        if field.default is ...:
            raise CheckpointError(f"{header.path} has nothing in its metadata {key}, which the model needs; get it again.")
        return field.default if field.absent is ... else field.absent
    if field.kind == "flag":
        return meta.flag(header, key)
    if field.kind == "natural":
        return meta.natural(header, key, 0)
    if field.kind == "whole":
        return round(meta.number(header, key))
    if field.kind == "number":
        return meta.shortest(meta.number(header, key))
    return None if meta.single(header, key) == 0 else meta.count(header, key)


def _put(config: dict[str, Any], name: str, value: Any) -> None:
    """Set a key; a dot leads into an object."""
    outer, _, inner = name.partition(".")
    if inner:
        config.setdefault(outer, {})[inner] = value
    else:
        config[name] = value


def _rope(header: GGUFHeader, family: Family, head_dim: int) -> dict[str, Any]:
    found = read_rope(header, family, two_widths.read_full_head_dim(header, family) if family.two_widths else head_dim)
    scaling = found.get("rope_scaling") or {}
    if scaling.get("rope_type") == "longrope":
        # Phi-3 reads it outside of the scaling.
        found["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return found


def _special(header: GGUFHeader, family: Family, config: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """What one family has alone."""
    found: dict[str, Any] = read_latent(header, family.arch) if family.latent else {}
    if family.state is not None:
        found |= read_state(header, family, config["hidden_size"])
    if family.model_type == "jamba":
        kinds = read_groups(header, family, config["num_hidden_layers"])[1]
        routers = {tensor.name for tensor in header.tensors if tensor.name.endswith(".ffn_gate_inp.weight")}
        experts = [f"blk.{layer}.ffn_gate_inp.weight" in routers for layer in range(len(kinds))]
        found |= jamba_periods([kind == "full_attention" for kind in kinds], experts, str(header.path))
    elif family.alone:
        found[alone.KINDS] = alone.read_kinds(header, family, read_groups(header, family, config["num_hidden_layers"])[1])
    elif family.hybrid:
        found["layer_types"] = read_groups(header, family, config["num_hidden_layers"])[1]
    if family.model_type == "llama4_text":
        found |= _llama4_layers(header, config)
    if family.model_type == "lfm2":
        found["block_auto_adjust_ff_dim"] = False
    if family.model_type == "granitemoehybrid":
        rotated = meta.flag(header, Keys.Rope.SCALING_FINETUNED.format(arch=family.arch))
        found["position_embedding_type"] = "nope" if rotated is False else "rope"
    if family.model_type == "deepseek_v2":
        found["topk_method"] = "greedy" if config["n_group"] in (None, 1) else "group_limited_greedy"
    if family.dense is not None:
        found["mlp_layer_types"] = read_mlp_kinds(header, family, config["num_hidden_layers"])
    if family.ahead:
        found["num_nextn_predict_layers"] = 0
    if (layers := _27B_LAYERS.get(family.model_type)) is not None:
        wide = config["num_hidden_layers"] == layers
        found["query_pre_attn_scalar"] = config["hidden_size"] // config["num_attention_heads"] if wide else head_dim
    if family.windows:
        found["layer_types"] = _layer_types(header, family, config[family.key("num_hidden_layers")], config.get("sliding_window"))
    if family.two_widths:
        found |= two_widths.read_rest(header, family, config | found)
    if family.model_type == "gemma3n_text":
        found |= altup.read_rest(header, family, config | found)
    if family.model_type == "smollm3":
        interval, layers = config["no_rope_layer_interval"], config["num_hidden_layers"]
        found["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in range(layers)]
    return found


def _llama4_layers(header: GGUFHeader, config: dict[str, Any]) -> dict[str, Any]:
    """Which layers of Llama 4 rotate and attend in chunks, and which have experts."""
    if header.metadata.get(Keys.Attention.SLIDING_WINDOW.format(arch="llama4")) == 0:
        raise UnsupportedModel(f"{header.path} is a Llama 4 without chunks of attention, which is not read.")
    layers, step = config["num_hidden_layers"], config["interleave_moe_layer_step"]
    rotated = [int((layer + 1) % config["no_rope_layer_interval"] != 0) for layer in range(layers)]
    return {
        "no_rope_layers": rotated,
        "layer_types": ["chunked_attention" if each else "full_attention" for each in rotated],
        "moe_layers": list(range(step - 1, layers, step)),
        "use_qk_norm": config["num_local_experts"] != 128,  # Maverick alone has none
    }


def _layer_types(header: GGUFHeader, family: Family, layers: int, window: int | None) -> list[str]:
    key = Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=family.arch)
    pattern = header.metadata.get(key)
    if window is None:
        local = [False] * layers
    elif getattr(pattern, "ndim", None) == 1:
        local = [bool(value) for value in meta.numbers(header, key, layers + layers_ahead(header, family)).tolist()[:layers]]
    else:
        period = family.windows if pattern is None else meta.count(header, key)
        local = [layer >= family.opening and (layer + 1) % period != 0 for layer in range(layers)]
    return [_LOCAL if each else "full_attention" for each in local]


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
        # Few tokens are of these kinds, so the others are not read where the file says the kinds.
        said = (
            enumerate(tokens.raw())
            if kinds is None
            else ((index, tokens[index]) for index in np.flatnonzero(np.isin(kinds, (3, 4))).tolist())
        )
        found += [index for index, raw in said if raw in wanted and index not in taken]
    unique = list(dict.fromkeys(found))
    return unique[0] if len(unique) == 1 else unique or None


def _dtype(header: GGUFHeader) -> str:
    """The type to compute in without loss: the file's own where its matrices are all of one 16-bit type."""
    kinds = {tensor.kind for tensor in header.tensors if len(tensor.shape) > 1}
    if kinds == {GGMLQuantizationType.BF16}:
        return "bfloat16"
    return "float16" if kinds == {GGMLQuantizationType.F16} else "float32"

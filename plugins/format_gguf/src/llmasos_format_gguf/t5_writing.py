"""A T5 as the metadata and tensor names of a GGUF file, as llama.cpp's converter writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.config import MAX_LAYERS
from llmasos_format_gguf.t5 import ARCH, MAX_DISTANCE, gguf_name
from llmasos_hookspecs import Checkpoint, CheckpointError, UnsupportedModel, as_float32

#: ``model_type`` values that GGUF calls ``t5``.
KINDS: Final = ("t5", "mt5")

_SHARED: Final = "shared.weight"
_HEAD: Final = "lm_head.weight"
#: Other names under which a checkpoint may store the embedding.
_TABLES: Final = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
#: Old checkpoints store a bias of cross-attention, which no model computes.
_UNREAD: Final = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def t5_form(checkpoint: Checkpoint) -> dict[str, Any]:
    """The sizes and switches of a T5 in the names of its config, with what transformers takes for those left out.

    Raises:
        CheckpointError: a size is missing or impossible.
        UnsupportedModel: something that GGUF has no key for is other than llama.cpp takes it to be.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    kind = config["model_type"]

    def size(name: str, default: int | None = None) -> int:
        value = config.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise CheckpointError(f"{where} has {name} = {value!r:.40}, and a whole number above 0 is needed; mend it.")
        return value

    layers = size("num_layers")
    tied = bool(config.get("tie_word_embeddings", True))
    found = {
        **{name: size(name) for name in ("d_model", "d_ff", "d_kv", "num_heads")},
        "num_layers": layers,
        "num_decoder_layers": size("num_decoder_layers", layers),
        "n_positions": size("n_positions", 512),
        "relative_attention_num_buckets": size("relative_attention_num_buckets", 32),
        "relative_attention_max_distance": size("relative_attention_max_distance", MAX_DISTANCE),
        "layer_norm_epsilon": config.get("layer_norm_epsilon", 1e-6),
        "feed_forward_proj": config.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu"),
        "tie_word_embeddings": tied,
        # T5 1.1 and mT5 do not scale what the head reads; the files say of the first that its head is not tied.
        "scale_decoder_outputs": kind == "t5" and bool(config.get("scale_decoder_outputs", tied)),
    }
    if max(layers, found["num_decoder_layers"]) > MAX_LAYERS:
        raise CheckpointError(f"{where} has {layers} layers, more than any model; mend it.")
    if found["relative_attention_max_distance"] != MAX_DISTANCE:
        raise UnsupportedModel(
            f"{where} has relative_attention_max_distance = {found['relative_attention_max_distance']}, and GGUF has no key for it: "
            f"llama.cpp takes {MAX_DISTANCE}."
        )
    if found["feed_forward_proj"] not in ("relu", "gated-gelu"):
        raise UnsupportedModel(
            f"{where} has feed_forward_proj = {found['feed_forward_proj']!r:.40}, and GGUF has no key for it: llama.cpp takes relu, or "
            "gated-gelu where there is a gate."
        )
    if found["scale_decoder_outputs"] and not tied:
        raise UnsupportedModel(f"{where} scales what an untied head reads, which GGUF cannot say.")
    return found


def t5_metadata(form: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of a T5, besides its vocabulary."""
    start = config.get("decoder_start_token_id", config.get("pad_token_id"))
    epsilon = meta.stored(form["layer_norm_epsilon"])
    counts = {
        Keys.LLM.CONTEXT_LENGTH: form["n_positions"],
        Keys.LLM.EMBEDDING_LENGTH: form["d_model"],
        Keys.LLM.FEED_FORWARD_LENGTH: form["d_ff"],
        Keys.LLM.BLOCK_COUNT: form["num_layers"],
        Keys.LLM.DECODER_BLOCK_COUNT: form["num_decoder_layers"],
        Keys.Attention.HEAD_COUNT: form["num_heads"],
        Keys.Attention.KEY_LENGTH: form["d_kv"],
        Keys.Attention.VALUE_LENGTH: form["d_kv"],
        Keys.Attention.REL_BUCKETS_COUNT: form["relative_attention_num_buckets"],
        Keys.LLM.DECODER_START_TOKEN_ID: start if type(start) is int and 0 <= start < 2**31 else 0,
    }
    norms = {Keys.Attention.LAYERNORM_EPS: epsilon, Keys.Attention.LAYERNORM_RMS_EPS: epsilon}
    return {key.format(arch=ARCH): np.uint32(value) for key, value in counts.items()} | {
        key.format(arch=ARCH): value for key, value in norms.items()
    }


def t5_tensors(checkpoint: Checkpoint, form: Mapping[str, Any]) -> list[tuple[str, str]]:
    """GGUF's name of every tensor that is written, and the checkpoint's.

    Raises:
        UnsupportedModel: GGUF has no place for a tensor, or tables that are tied differ.
        CheckpointError: the embedding or the head is missing.
    """
    names, where, tied = set(checkpoint.names()), str(checkpoint.path), form["tie_word_embeddings"]
    if _SHARED not in names:
        raise CheckpointError(f"{where} holds no {_SHARED}; get it again.")
    if not tied and _HEAD not in names:
        raise CheckpointError(f"{where} holds no output head, and its config does not tie it to the embedding; get it again.")
    for other in (*_TABLES, *((_HEAD,) if tied else ())):
        if other in names and not np.array_equal(as_float32(checkpoint.tensor(other)), as_float32(checkpoint.tensor(_SHARED))):
            raise UnsupportedModel(f"{where} holds another {other} than {_SHARED}, and GGUF has one table for both.")
        names.discard(other)
    names.discard(_UNREAD)
    found = []
    for name in sorted(names):
        written = gguf_name(name, gated=form["feed_forward_proj"] != "relu")
        if written is None:
            raise UnsupportedModel(f"{where} holds the tensor {name[:80]!r}, for which a GGUF of {ARCH} has no place.")
        found.append((written, name))
    if tied and not form["scale_decoder_outputs"]:
        found.append(("output.weight", _SHARED))  # a file without a head says that its input is scaled
    return found


def check_t5(form: Mapping[str, Any], read: Mapping[str, Any], where: str) -> None:
    """Raise ``CheckpointError`` where a file that was read back describes another model than it was written of."""
    head = form["tie_word_embeddings"] and form["scale_decoder_outputs"]
    wanted = {**form, "tie_word_embeddings": head}
    for name, value in wanted.items():
        if read.get(name) != value:
            raise CheckpointError(f"{where} has {name} = {value!r}, which its tensors do not fit: a file of them says {read.get(name)!r}.")

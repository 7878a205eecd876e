"""T5 in GGUF, the only encoder-decoder that llama.cpp knows: its names and its config.

llama.cpp names T5 1.0, T5 1.1, Flan-T5 and mT5 alike, and has no key for what they share: the bias
reaches 128 tokens, and the gate is GELU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import UnsupportedModel

ARCH: Final = "t5"
#: Tokens that the bias by distance reaches.
MAX_DISTANCE: Final = 128

_LAYER: Final = re.compile(r"(enc|dec)\.blk\.(\d{1,6})\.([a-z_]+)\.weight")
_BLOCK: Final = re.compile(r"(encoder|decoder)\.block\.(\d{1,6})\.layer\.(\S+)\.weight")
_SIDES: Final = {"enc": "encoder", "dec": "decoder"}
_OUTSIDE: Final = {
    "token_embd.weight": "shared.weight",
    "output.weight": "lm_head.weight",
    "enc.output_norm.weight": "encoder.final_layer_norm.weight",
    "dec.output_norm.weight": "decoder.final_layer_norm.weight",
}
_ATTENTION: Final = {
    "attn_norm": "0.layer_norm",
    "attn_q": "0.SelfAttention.q",
    "attn_k": "0.SelfAttention.k",
    "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o",
    "attn_rel_b": "0.SelfAttention.relative_attention_bias",
}
_CROSS: Final = {
    "cross_attn_norm": "1.layer_norm",
    "cross_attn_q": "1.EncDecAttention.q",
    "cross_attn_k": "1.EncDecAttention.k",
    "cross_attn_v": "1.EncDecAttention.v",
    "cross_attn_o": "1.EncDecAttention.o",
}


def is_t5(header: GGUFHeader) -> bool:
    """Whether a file holds a T5."""
    return meta.architecture(header) == ARCH


def t5_config(header: GGUFHeader, common: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a T5; ``common``: what those of all architectures have.

    Raises:
        CheckpointError: a size is missing or impossible.
        UnsupportedModel: it is a UMT5, whose layers have a bias each.
    """
    tensors = {tensor.name for tensor in header.tensors}
    if "dec.blk.1.attn_rel_b.weight" in tensors:
        raise UnsupportedModel(f"{header.path} holds a UMT5, whose layers have a position bias each; T5 and mT5 are read.")
    gated, tied = "dec.blk.0.ffn_gate.weight" in tensors, "output.weight" not in tensors

    def size(key: str, default: int | None = None) -> int:
        return meta.count(header, key.format(arch=ARCH), default)

    layers = size(Keys.LLM.BLOCK_COUNT)
    return {
        **common,
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": ARCH,
        "is_encoder_decoder": True,
        "d_model": size(Keys.LLM.EMBEDDING_LENGTH),
        "d_ff": size(Keys.LLM.FEED_FORWARD_LENGTH),
        "d_kv": size(Keys.Attention.KEY_LENGTH),
        "num_heads": size(Keys.Attention.HEAD_COUNT),
        "num_layers": layers,
        "num_decoder_layers": size("{arch}.decoder_block_count", layers),
        "n_positions": size(Keys.LLM.CONTEXT_LENGTH, 512),
        "relative_attention_num_buckets": size(Keys.Attention.REL_BUCKETS_COUNT),
        "relative_attention_max_distance": MAX_DISTANCE,
        "layer_norm_epsilon": meta.shortest(meta.number(header, Keys.Attention.LAYERNORM_RMS_EPS.format(arch=ARCH), 1e-6)),
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "decoder_start_token_id": meta.natural(header, Keys.LLM.DECODER_START_TOKEN_ID.format(arch=ARCH), 0),
    }


def t5_name(name: str, *, gated: bool) -> str | None:
    """Hugging Face's name of a GGUF tensor; None for one that a T5 does not have. ``gated``: its feed-forward layers are."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    found = _LAYER.fullmatch(name)
    if found is None:
        return None
    side, layer, part = found.groups()
    name_in_layer = _parts(side, gated=gated).get(part)
    return None if name_in_layer is None else f"{_SIDES[side]}.block.{layer}.layer.{name_in_layer}.weight"


def gguf_name(name: str, *, gated: bool) -> str | None:
    """The inverse of ``t5_name``."""
    for written, original in _OUTSIDE.items():
        if name == original:
            return written
    found = _BLOCK.fullmatch(name)
    if found is None:
        return None
    side, layer, rest = found.groups()
    short = side[:3]
    part = next((part for part, name_in_layer in _parts(short, gated=gated).items() if name_in_layer == rest), None)
    return None if part is None else f"{short}.blk.{layer}.{part}.weight"


def _parts(side: str, *, gated: bool) -> dict[str, str]:
    """GGUF's name of each part of a layer -> Hugging Face's."""
    last = 1 if side == "enc" else 2
    dense = f"{last}.DenseReluDense."
    parts = {**_ATTENTION, **(_CROSS if side == "dec" else {}), "ffn_norm": f"{last}.layer_norm", "ffn_down": f"{dense}wo"}
    return parts | ({"ffn_gate": f"{dense}wi_0", "ffn_up": f"{dense}wi_1"} if gated else {"ffn_up": f"{dense}wi"})

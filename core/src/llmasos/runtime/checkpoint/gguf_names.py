"""GGUF's tensor names as Hugging Face's, and the row order that llama.cpp gives queries and keys."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt

_TOP: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: Gemma 2 has a norm before and one after each half of a layer.
_GEMMA2_LAYER: Final = _LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_NAME: Final = re.compile(r"(?:blk\.(\d{1,6})\.)?([a-z_]+)\.(weight|bias)")

#: Tensors that hold what the config says already.
DERIVED: Final = frozenset({"rope_freqs.weight"})


def huggingface_name(name: str, model_type: str) -> str | None:
    """The Hugging Face name of a GGUF tensor; None for one that these architectures do not have."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    layer, part, leaf = found.groups()
    if layer is None:
        module = _TOP.get(part)
        return None if module is None else f"{module}.{leaf}"
    module = (_GEMMA2_LAYER if model_type == "gemma2" else _LAYER).get(part)
    return None if module is None else f"model.layers.{int(layer)}.{module}.{leaf}"


def unpermuted_rows(rows: int, heads: int) -> npt.NDArray[np.intp]:
    """The order of rows that undoes llama.cpp's: ``hf[i] = gguf[order[i]]``.

    llama.cpp rotates neighbouring elements of a head and transformers an element and its counterpart half a head away, so the
    converter interleaves the two halves of each head of q and k in the architectures ``llama`` and ``mistral``.
    """
    return np.arange(rows, dtype=np.intp).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)

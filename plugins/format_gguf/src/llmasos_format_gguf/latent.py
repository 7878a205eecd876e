"""Multi-head latent attention: the sizes of its projections in a GGUF file and in ``config.json`` (DeepSeek-V2, arXiv:2405.04434).

Keys and values of all heads are made of one latent vector a token. llama.cpp multiplies queries by the keys' part of that projection
and attends to the latent vectors themselves, so that a file counts one head of keys, as wide as the vector and the rotated part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import CheckpointError


def rotated_width(header: GGUFHeader, arch: str) -> int:
    """Elements of a head that are rotated."""
    return meta.count(header, Keys.Rope.DIMENSION_COUNT.format(arch=arch))


def read_latent(header: GGUFHeader, arch: str) -> dict[str, Any]:
    """The entries of ``config.json`` about the projections.

    Raises:
        CheckpointError: a size is missing or impossible.
    """
    rotated = rotated_width(header, arch)
    # Files of before keys and values were split give the widths of a head of each.
    split = Keys.Attention.KEY_LENGTH_MLA.format(arch=arch) in header.metadata
    keys = Keys.Attention.KEY_LENGTH_MLA if split else Keys.Attention.KEY_LENGTH
    values = Keys.Attention.VALUE_LENGTH_MLA if split else Keys.Attention.VALUE_LENGTH
    width = meta.count(header, keys.format(arch=arch))
    if width <= rotated:
        raise CheckpointError(f"{header.path} rotates {rotated} elements of keys of {width}, which no such model does; get it again.")
    rank = Keys.Attention.Q_LORA_RANK.format(arch=arch)
    return {
        "q_lora_rank": meta.count(header, rank) if rank in header.metadata else None,
        "kv_lora_rank": meta.count(header, Keys.Attention.KV_LORA_RANK.format(arch=arch)),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": width - rotated,
        "v_head_dim": meta.count(header, values.format(arch=arch)),
    }


def write_latent(config: Mapping[str, Any], where: str, *, joint: bool) -> dict[str, Any]:
    """The metadata about the projections, by keys with ``{arch}``; ``joint``: keys and values of all heads stay one projection.

    Raises:
        CheckpointError: a size is missing or impossible.
    """
    sizes = {}
    for name in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"):
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**20:
            raise CheckpointError(f"{where} has {name} = {str(value)[:40]}, and a whole number above 0 is needed; mend it.")
        sizes[name] = value
    width = sizes["qk_nope_head_dim"] + sizes["qk_rope_head_dim"]
    found = {Keys.Attention.KV_LORA_RANK: sizes["kv_lora_rank"]}
    if joint:
        found |= {Keys.Attention.KEY_LENGTH: width, Keys.Attention.VALUE_LENGTH: sizes["v_head_dim"]}
    else:
        found |= {
            Keys.Attention.HEAD_COUNT_KV: 1,
            Keys.Attention.KEY_LENGTH: sizes["kv_lora_rank"] + sizes["qk_rope_head_dim"],
            Keys.Attention.VALUE_LENGTH: sizes["kv_lora_rank"],
            Keys.Attention.KEY_LENGTH_MLA: width,
            Keys.Attention.VALUE_LENGTH_MLA: sizes["v_head_dim"],
        }
    rank = config.get("q_lora_rank")
    if isinstance(rank, int) and rank > 0:
        found[Keys.Attention.Q_LORA_RANK] = rank
    return {key: np.uint32(value) for key, value in found.items()}

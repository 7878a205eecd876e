"""Layers that are a state space, attention, an MLP or experts, and nothing else (Nemotron-H, arXiv:2504.03624).

GGUF tells them by two numbers a layer: heads of keys where it attends, and the width of its MLP or experts where it has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import CheckpointError, UnsupportedModel

ATTENTION: Final = "full_attention"

#: What older configs call the kinds of layers.
OLDER_KINDS: Final = {"mamba": "linear_attention", "attention": ATTENTION}

#: Letters of ``hybrid_override_pattern``, in which older configs have the kinds, and the kinds where a config is silent.
_LETTERS: Final = {"M": "linear_attention", "E": "moe", "*": ATTENTION, "-": "mlp"}
_DEFAULT: Final = ["linear_attention", "moe", ATTENTION, "mlp"]

#: The config's key.
KINDS: Final = "layers_block_type"


def told_kinds(config: Mapping[str, Any]) -> list[Any]:
    """The kind of every layer of a config by today's names, as far as it tells them."""
    told = config.get(KINDS) or config.get("layer_types")
    if told is None and isinstance(pattern := config.get("hybrid_override_pattern"), str):
        told = [_LETTERS.get(letter, letter) for letter in pattern]
    told = _DEFAULT if told is None else told
    return [OLDER_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in told] if isinstance(told, list) else []


def layer_kinds(config: Mapping[str, Any], family: Family, where: str) -> list[str]:
    """The kind of every layer.

    Raises:
        CheckpointError: there is no list of them.
        UnsupportedModel: one is of a kind that the family has not.
    """
    told = told_kinds(config)
    if not told or not all(isinstance(kind, str) for kind in told):
        raise CheckpointError(f"{where} has no list of {KINDS}; mend it.")
    if unknown := set(told) - {ATTENTION, family.hybrid, family.alone}:
        raise UnsupportedModel(
            f"{where} has layers of the kind {min(unknown)[:40]!r} beside others, which a GGUF of {family.arch} does not know."
        )
    return told


def feed_forward_widths(header: GGUFHeader, family: Family, layers: int) -> list[int]:
    """The width of each layer's MLP or experts, 0 where it has none.

    Raises:
        CheckpointError: a width is missing or impossible, or layers have different ones.
    """
    widths = meta.naturals(header, Keys.LLM.FEED_FORWARD_LENGTH.format(arch=family.arch), layers)
    if len(set(widths) - {0}) > 1:
        raise CheckpointError(f"{header.path} has MLPs of the widths {sorted(set(widths))[:8]}; one for all layers is read.")
    return widths


def read_kinds(header: GGUFHeader, family: Family, groups: list[str]) -> list[str]:
    """The kind of every layer of a file, ``groups`` being those by heads of keys.

    Raises:
        CheckpointError: a layer is of two kinds.
    """
    widths = feed_forward_widths(header, family, len(groups))
    if any(width and kind == ATTENTION for kind, width in zip(groups, widths, strict=True)):
        raise CheckpointError(f"{header.path} has a layer with both attention and an MLP, which no {family.model_type} has; get it again.")
    return [family.alone if width else kind for kind, width in zip(groups, widths, strict=True)]


def write_widths(config: Mapping[str, Any], family: Family, width: int, where: str) -> dict[str, Any]:
    """The metadata that tells layers with an MLP or experts from the others."""
    return {Keys.LLM.FEED_FORWARD_LENGTH: [np.uint32(width * (kind == family.alone)) for kind in layer_kinds(config, family, where)]}

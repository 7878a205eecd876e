"""The architectures of GGUF files that are read and written, one entry a family.

What a tensor is called in GGUF is the ``gguf`` package's to say (``gguf.tensor_mapping``); an entry lists the modules of Hugging Face's
checkpoint, how the family's layout differs, and which keys of ``config.json`` are which keys of the metadata. Facts are those of
transformers' model classes; the tests hold every default against its config classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.alone import told_kinds
from llmasos_format_gguf.decoders import DECODERS
from llmasos_format_gguf.experts import EXPERTS
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.gemmas import GEMMAS
from llmasos_format_gguf.header import GGUFHeader
from llmasos_format_gguf.hybrids import HYBRIDS
from llmasos_hookspecs import UnsupportedModel

FAMILIES: Final[tuple[Family, ...]] = (*DECODERS, *GEMMAS, *EXPERTS, *HYBRIDS)

#: Buffers of some checkpoints that follow from the config, and that GGUF does not hold.
BUFFERS: Final = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq")

#: GGUF tensors that say what the config says: how rotary frequencies are scaled.
ROPE_TENSORS: Final = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@cache
def architectures() -> tuple[str, ...]:
    """GGUF's names of all architectures in the table."""
    return tuple(dict.fromkeys(family.arch for family in FAMILIES))


def family_of(header: GGUFHeader) -> Family:
    """The family of the model in a GGUF file.

    Raises:
        UnsupportedModel: its architecture is not in the table.
    """
    arch = meta.architecture(header)
    if arch not in architectures():
        raise UnsupportedModel(f"{header.path} holds a model of the architecture {arch[:40]!r}, and {', '.join(architectures())} are read.")
    names = {tensor.name for tensor in header.tensors}
    # Hybrids have a number for each layer, and are told apart by nothing of it.
    told_by_heads = any(family.kv_heads is not None for family in FAMILIES if family.arch == arch)
    groups = meta.single(header, Keys.Attention.HEAD_COUNT_KV.format(arch=arch)) if told_by_heads else None
    candidates = [
        family
        for family in FAMILIES
        if family.arch == arch
        and all(f"blk.0.{mark}" in names for mark in family.marks)
        and (family.kv_heads is None or groups in (None, family.kv_heads))
        and all(meta.single(header, key.format(arch=arch)) in (None, value) for key, value in family.constants.items())
    ]
    if not any(family.marks for family in candidates):
        # llama.cpp converts some as another whose mathematics they share; only the name tells.
        titles = " ".join(meta.text(header, f"general.{key}") or "" for key in ("name", "basename")).lower()
        named = [family for family in candidates if family.title and family.title in titles]
        candidates = named or [family for family in candidates if not family.title]
    if not candidates and any(family.constants for family in FAMILIES if family.arch == arch):
        keys = dict.fromkeys(key.format(arch=arch) for family in FAMILIES if family.arch == arch for key in family.constants)
        told = ", ".join(f"{key} = {str(header.metadata.get(key))[:20]}" for key in keys)
        raise UnsupportedModel(f"{header.path} has {told}, as which no {arch} is read.")
    if not candidates:
        raise UnsupportedModel(f"{header.path} has {str(groups)[:20]} heads of keys and values, which no {arch} that is read has.")
    if arch == "olmo2":
        wanted = "olmo3" if Keys.Attention.SLIDING_WINDOW.format(arch=arch) in header.metadata else "olmo2"
        return next(family for family in candidates if family.model_type == wanted)
    return candidates[0]


def family_for(config: Mapping[str, Any], where: str) -> Family:
    """The family as which a checkpoint with this config is written.

    Raises:
        UnsupportedModel: there is none.
    """
    kind = config.get("model_type")
    candidates = [family for family in FAMILIES if family.model_type == kind]
    if not candidates:
        known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
        raise UnsupportedModel(f"{where} has model_type {str(kind)[:40]!r}, for which no GGUF is written; those that are: {known}.")
    # Of layers that are one thing alone the kinds tell the family: those with experts are of another than those with an MLP.
    candidates = [family for family in candidates if not family.alone or family.alone in told_kinds(config)] or candidates
    fits = [family for family in candidates if all(config.get(key) in (None, value) for key, value in family.fixed.items())]
    return (fits or candidates)[0]

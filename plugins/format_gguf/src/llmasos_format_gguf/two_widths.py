"""Layers with a window beside layers with wider heads that attend to all (Gemma 4).

A file gives the two widths of heads, and heads of keys and the width of the MLP for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader
from llmasos_format_gguf.sharing import FULL, LOCAL, check_sharing, shared_layers
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Elements of a head in layers that attend to all, where a config is silent.
_WIDTH: Final = 512


def read_head_dim(header: GGUFHeader, family: Family) -> int:
    """Elements of a head in layers with a window.

    Raises:
        UnsupportedModel: values are of another width than keys, or a head is rotated in part.
    """
    widths = []
    for keys, values, rotated in (
        (Keys.Attention.KEY_LENGTH_SWA, Keys.Attention.VALUE_LENGTH_SWA, Keys.Rope.DIMENSION_COUNT_SWA),
        (Keys.Attention.KEY_LENGTH, Keys.Attention.VALUE_LENGTH, Keys.Rope.DIMENSION_COUNT),
    ):
        width = meta.count(header, keys.format(arch=family.arch))
        others = [meta.count(header, key.format(arch=family.arch), width) for key in (values, rotated)]
        if others != [width, width]:
            raise UnsupportedModel(
                f"{header.path} has keys of {width} elements, values of {others[0]}, and rotates {others[1]}; no {family.arch} does."
            )
        widths.append(width)
    return widths[0]


def read_full_head_dim(header: GGUFHeader, family: Family) -> int:
    """Elements of a head in layers that attend to all."""
    return meta.count(header, Keys.Attention.KEY_LENGTH.format(arch=family.arch))


def read_feed_forward(header: GGUFHeader, family: Family, layers: int) -> int:
    """The width of the first layer's MLP."""
    if (width := meta.naturals(header, Keys.LLM.FEED_FORWARD_LENGTH.format(arch=family.arch), layers)[0]) < 1:
        raise CheckpointError(f"{header.path} has an MLP of no width; get it again.")
    return width


def read_groups(header: GGUFHeader, family: Family, kinds: Sequence[str]) -> dict[str, int]:
    """Heads of keys in layers with a window and in those that attend to all.

    Raises:
        UnsupportedModel: layers of one kind have different numbers.
    """
    counts = meta.naturals(header, Keys.Attention.HEAD_COUNT_KV.format(arch=family.arch), len(kinds))
    full, local = ({count for count, kind in zip(counts, kinds, strict=True) if kind == wanted} for wanted in (FULL, LOCAL))
    if len(full) > 1 or len(local) > 1 or 0 in counts:
        raise UnsupportedModel(f"{header.path} has {sorted(set(counts))[:8]} heads of keys in layers of one kind; one number is read.")
    return {"num_key_value_heads": max(local or full), "num_global_key_value_heads": max(full or local)}


def read_rest(header: GGUFHeader, family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """What follows of the tensors and of other entries of ``config.json``.

    Raises:
        CheckpointError: more layers share than there are, or MLPs are of widths that no such model has.
        UnsupportedModel: transformers has no config that computes the same.
    """
    kinds, where = config["layer_types"], str(header.path)
    layers, groups = len(kinds), config["num_global_key_value_heads"]
    check_sharing(config, kinds, family, where)
    unshared = layers - shared_layers(config, family)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    full = [layer for layer in range(unshared) if kinds[layer] == FULL]
    one_projection = bool(full) and not any(f"blk.{layer}.attn_v.weight" in tensors for layer in full)
    if groups != config["num_key_value_heads"] and not one_projection:
        raise UnsupportedModel(f"{where} has {groups} heads of keys in layers that attend to all, which have values of their own.")
    width = config["intermediate_size"]
    widths = meta.naturals(header, Keys.LLM.FEED_FORWARD_LENGTH.format(arch=family.arch), layers)
    double = widths[-1] == 2 * width
    if widths != [width] * unshared + [width * (2 if double else 1)] * (layers - unshared):
        raise CheckpointError(f"{where} has MLPs of the widths {sorted(set(widths))[:8]} in layers where no {family.arch} has them.")
    found = {
        "global_head_dim": read_full_head_dim(header, family),
        "attention_k_eq_v": one_projection,
        "num_global_key_value_heads": groups if one_projection else None,
        "use_double_wide_mlp": double,
    }
    if (table := tensors.get("per_layer_token_embd.weight")) is not None:
        found["vocab_size_per_layer_input"] = table.shape[0]
    return found


def sizes_of(config: Mapping[str, Any], sizes: Mapping[str, Any], kinds: Sequence[str], where: str) -> dict[str, Any]:
    """Width and heads of keys of layers that attend to all, under the names of published configs.

    transformers saves them layer by layer, as ``per_layer_config``.

    Raises:
        CheckpointError: a size is impossible.
        UnsupportedModel: layers are of more than two forms.
    """
    one_projection = config.get("attention_k_eq_v") is True
    told = config.get("per_layer_config")
    if told is None:
        found = {"head_dim": config.get("global_head_dim") or _WIDTH}
        if one_projection and (groups := config.get("num_global_key_value_heads")) is not None:
            found["num_key_value_heads"] = groups
    else:
        if not isinstance(told, Mapping):
            raise CheckpointError(f"{where} has no object of layers in per_layer_config; mend it.")
        common = {name: sizes[name] for name in ("head_dim", "num_key_value_heads")}
        forms = [(kind, common | dict(told.get(str(layer)) or {})) for layer, kind in enumerate(kinds)]
        full = [form for kind, form in forms if kind == FULL]
        if any(form != (full[0] if kind == FULL else common) for kind, form in forms) or len(full[0]) > len(common):
            raise UnsupportedModel(f"{where} has a per_layer_config of more than two forms of layers, which GGUF cannot say.")
        found = full[0]
    groups = found.get("num_key_value_heads", sizes["num_key_value_heads"])
    for name, value in (("global_head_dim", found["head_dim"]), ("num_global_key_value_heads", groups)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**20:
            raise CheckpointError(f"{where} has {name} = {str(value)[:40]}, and a whole number above 0 is needed; mend it.")
    if groups != sizes["num_key_value_heads"] and not one_projection:
        raise UnsupportedModel(f"{where} has {groups} heads of keys in layers that attend to all, which have values of their own.")
    return {"global_head_dim": found["head_dim"], "num_global_key_value_heads": groups if one_projection else None}


def implied(config: Mapping[str, Any], family: Family, kinds: Sequence[str]) -> dict[str, Any]:
    """Entries of a config as they take effect."""
    return {
        "layer_types": list(kinds),
        "use_double_wide_mlp": bool(config.get("use_double_wide_mlp")) and shared_layers(config, family) > 0,
    }


def write_layers(config: Mapping[str, Any], family: Family, sizes: Mapping[str, Any], kinds: Sequence[str], where: str) -> dict[str, Any]:
    """The metadata that tells layers from one another, by keys with ``{arch}``.

    Raises:
        CheckpointError: a size is impossible.
        UnsupportedModel: layers share in a way that GGUF cannot say.
    """
    check_sharing(config, kinds, family, where)
    width, groups, unshared = sizes["intermediate_size"], sizes["num_key_value_heads"], len(kinds) - shared_layers(config, family)
    times = 2 if implied(config, family, kinds)["use_double_wide_mlp"] else 1
    full = sizes["num_global_key_value_heads"] or groups
    return {
        Keys.Attention.KEY_LENGTH: np.uint32(sizes["global_head_dim"]),
        Keys.Attention.VALUE_LENGTH: np.uint32(sizes["global_head_dim"]),
        Keys.Attention.KEY_LENGTH_SWA: np.uint32(sizes["head_dim"]),
        Keys.Attention.VALUE_LENGTH_SWA: np.uint32(sizes["head_dim"]),
        Keys.Rope.DIMENSION_COUNT_SWA: np.uint32(sizes["head_dim"]),
        Keys.Attention.HEAD_COUNT_KV: [np.uint32(full if kind == FULL else groups) for kind in kinds],
        Keys.LLM.FEED_FORWARD_LENGTH: [np.uint32(width * (1 if layer < unshared else times)) for layer in range(len(kinds))],
    }

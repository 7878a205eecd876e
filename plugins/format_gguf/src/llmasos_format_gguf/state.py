"""State-space layers: their sizes in a GGUF file and in ``config.json``, and which layers have them (Mamba, arXiv:2312.00752)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gguf.constants import Keys

from llmasos_format_gguf import alone, delta, metadata as meta
from llmasos_format_gguf.family import Family, StateNames
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: The context of a model that has no bound on it; llama.cpp wants a number.
_ENDLESS: Final = 2**20

_ATTENTION: Final = alone.ATTENTION


def read_state(header: GGUFHeader, family: Family, hidden: int) -> dict[str, Any]:
    """The entries of ``config.json`` about state-space layers.

    Raises:
        CheckpointError: a size is missing or impossible.
    """
    assert family.state is not None
    names, arch = family.state, family.arch
    inner = meta.count(header, Keys.SSM.INNER_SIZE.format(arch=arch))
    rank = meta.count(header, Keys.SSM.TIME_STEP_RANK.format(arch=arch))
    if (names.expand[0] and inner % hidden) or (names.heads[0] and inner % rank):
        raise CheckpointError(f"{header.path} has state-space layers of {inner} elements for {hidden} and {rank} heads; get it again.")
    found = {
        names.conv[0]: meta.count(header, Keys.SSM.CONV_KERNEL.format(arch=arch)),
        names.size[0]: meta.count(header, Keys.SSM.STATE_SIZE.format(arch=arch)),
        names.heads[0] or names.rank[0]: rank,
    }
    if names.expand[0] or names.inner[0]:
        found[names.expand[0] or names.inner[0]] = inner // hidden if names.expand[0] else inner
    if names.heads[0]:
        found |= {names.width[0]: inner // rank, names.groups[0]: meta.count(header, Keys.SSM.GROUP_COUNT.format(arch=arch))}
    return found


def state_sizes(config: Mapping[str, Any], names: StateNames, hidden: int, where: str) -> dict[str, int]:
    """The sizes of a config's state-space layers by its own names, with what transformers takes for those left out.

    Raises:
        CheckpointError: a size is impossible.
    """
    found: dict[str, int] = {}
    for entry in (names.conv, names.size, names.expand, names.inner, names.rank, names.heads, names.width, names.groups):
        name, default = entry
        if not name:
            continue
        value = config.get(name)
        value = default if value is None else value
        if value == "auto":
            value = _inner(found, names, hidden) // found[names.heads[0]] if names.heads[0] else math.ceil(hidden / 16)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**20:
            raise CheckpointError(f"{where} has {name} = {str(value)[:40]}, and a whole number above 0 is needed; mend it.")
        found[name] = value
    if names.heads[0] and found[names.heads[0]] * found[names.width[0]] != _inner(found, names, hidden):
        raise CheckpointError(f"{where} has {names.heads[0]} and {names.width[0]} that do not make up its state-space layers; mend it.")
    return found


def _inner(sizes: Mapping[str, int], names: StateNames, hidden: int) -> int:
    """How wide a state-space layer is."""
    if names.expand[0]:
        return sizes[names.expand[0]] * hidden
    return sizes[names.inner[0]] if names.inner[0] else sizes[names.heads[0]] * sizes[names.width[0]]


def write_state(config: Mapping[str, Any], family: Family, hidden: int, where: str) -> dict[str, Any]:
    """The metadata about state-space layers, by keys with ``{arch}``."""
    assert family.state is not None
    names, sizes = family.state, state_sizes(config, family.state, hidden, where)
    found = {
        Keys.SSM.CONV_KERNEL: sizes[names.conv[0]],
        Keys.SSM.STATE_SIZE: sizes[names.size[0]],
        Keys.SSM.INNER_SIZE: _inner(sizes, names, hidden),
        Keys.SSM.TIME_STEP_RANK: sizes[names.heads[0] or names.rank[0]],
    }
    if names.groups[0]:
        found[Keys.SSM.GROUP_COUNT] = sizes[names.groups[0]]
    if not family.attention:
        found |= {Keys.LLM.CONTEXT_LENGTH: _ENDLESS, Keys.LLM.FEED_FORWARD_LENGTH: 0, Keys.Attention.HEAD_COUNT: 0}
    return {key: np.uint32(value) for key, value in found.items()}


def read_groups(header: GGUFHeader, family: Family, layers: int) -> tuple[int, list[str]]:
    """Heads of keys in the layers with attention, and the kind of every layer: those without attention count none.

    Raises:
        UnsupportedModel: the layers with attention have different numbers of heads, or there is none.
    """
    key = Keys.Attention.HEAD_COUNT_KV.format(arch=family.arch)
    if family.interval:
        return meta.count(header, key), delta.read_kinds(header, family, layers)
    found = header.metadata.get(key, meta.count(header, Keys.Attention.HEAD_COUNT.format(arch=family.arch)))
    counts = [found] * layers if isinstance(found, int) else [int(each) for each in meta.numbers(header, key, layers)]
    held = {count for count in counts if count}
    if len(held) != 1 or not 0 < min(held) < 2**20:
        raise UnsupportedModel(
            f"{header.path} has {sorted(held)[:8]} heads of keys in its layers; one number for all with attention is read."
        )
    return held.pop(), [_ATTENTION if count else family.hybrid for count in counts]


def layer_kinds(config: Mapping[str, Any], family: Family, layers: int, where: str) -> list[str]:
    """The kind of every layer of a config.

    Raises:
        CheckpointError: there is no kind for each.
        UnsupportedModel: one is of a kind that the family has not.
    """
    if family.model_type == "jamba":
        return [_ATTENTION if attends else family.hybrid for attends in jamba_layers(config, layers, where)[0]]
    told = config.get("layer_types")
    if told is None and family.interval:
        told = delta.default_kinds(config, family, layers)
    if told is None:
        attention = config.get("full_attn_idxs")
        if family.hybrid == "conv":
            told = [_ATTENTION if attention is None or layer in attention else "conv" for layer in range(layers)]
        else:
            told = [family.hybrid] * layers
    if not isinstance(told, list) or len(told) != layers:
        raise CheckpointError(f"{where} has no list of {layers} layer_types; mend it.")
    found = [alone.OLDER_KINDS.get(kind, kind) if isinstance(kind, str) else str(kind) for kind in told]
    if unknown := set(found) - {_ATTENTION, family.hybrid}:
        raise UnsupportedModel(f"{where} has layers of the kind {min(unknown)[:40]!r}, which a GGUF of {family.arch} does not know.")
    return found


def write_groups(config: Mapping[str, Any], family: Family, sizes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The metadata that tells layers with attention from the others."""
    layers = sizes["num_hidden_layers"]
    kinds = alone.layer_kinds(config, family, where) if family.alone else layer_kinds(config, family, layers, where)
    if family.interval:
        return delta.write_kinds(kinds, family)
    return {Keys.Attention.HEAD_COUNT_KV: [np.uint32(sizes["num_key_value_heads"] if kind == _ATTENTION else 0) for kind in kinds]}


#: What Jamba's config calls the periods in which layers attend and have experts, with what transformers takes.
_JAMBA: Final = (
    ({"attn_layer_period": 8}, {"attn_layer_offset": 4}),
    ({"expert_layer_period": 2}, {"expert_layer_offset": 1}),
)


def jamba_layers(config: Mapping[str, Any], layers: int, where: str) -> tuple[list[bool], list[bool]]:
    """Which layers of Jamba attend, and which have experts.

    Raises:
        CheckpointError: a period is missing or impossible.
    """
    found = []
    for period, offset in _JAMBA:
        (every, default), (first, start) = *period.items(), *offset.items()
        step, at = config.get(every, default), config.get(first, start)
        if not isinstance(step, int) or not isinstance(at, int) or not 0 <= at < step:
            raise CheckpointError(f"{where} has {every} = {str(step)[:20]} and {first} = {str(at)[:20]}, which are no period; mend it.")
        found.append([layer % step == at for layer in range(layers)])
    return found[0], [each and config.get("num_experts", 16) != 1 for each in found[1]]


def jamba_periods(attention: list[bool], experts: list[bool], where: str) -> dict[str, int]:
    """The periods in which layers of Jamba attend and have experts; where there is one such layer the period is all of them.

    Raises:
        UnsupportedModel: they have no period.
    """
    found: dict[str, int] = {}
    for (period, offset), layers in zip(_JAMBA, (attention, experts), strict=True):
        at = [layer for layer, each in enumerate(layers) if each] or [len(layers)]
        step = at[1] - at[0] if len(at) > 1 else len(layers) + (at[0] == len(layers))
        if at[0] >= step or layers != [layer % step == at[0] for layer in range(len(layers))]:
            raise UnsupportedModel(f"{where} has layers of attention or experts that do not follow a period, as all of Jamba do.")
        found |= dict.fromkeys(period, step) | dict.fromkeys(offset, at[0])
    return found


def feed_forward_width(config: Mapping[str, Any], told: Any) -> Any:
    """The width of LFM2's MLP, which its config gives before it is adjusted."""
    told = config.get("block_ff_dim") or told
    if not config.get("block_auto_adjust_ff_dim", True) or not isinstance(told, int):
        return told
    width = int(2 * told / 3)
    if (multiplier := config.get("block_ffn_dim_multiplier", 1.0)) is not None:
        multiple = config.get("block_multiple_of", 256)
        width = multiple * -(-int(multiplier * width) // multiple)
    return width

"""The Hugging Face tensors of a GGUF model: what each is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.blocks import READABLE
from llmasos_format_gguf.config import layers_ahead
from llmasos_format_gguf.families import ROPE_TENSORS
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader, GGUFTensor
from llmasos_format_gguf.layouts import Layout, Same
from llmasos_format_gguf.names import NameTable, Place, name_table
from llmasos_format_gguf.sharing import is_spare
from llmasos_format_gguf.t5 import t5_name
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: More experts, or heads with norms of their own, than any model has.
MAX_STACKED: Final = 4096

#: More tensors than any model has: one stack is a tensor for each expert, and takes more memory as such than the byte it may have in a
#: file.
MAX_TENSORS: Final = 500_000

#: Projections that older converters stored as one tensor.
_FUSED: Final = "attn_qkv"
_EXPERT_COUNTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_HEAD_COUNTS: Final = {False: ("num_attention_heads",), True: ("num_key_value_heads",)}
_QKV: Final = ("attn_q", "attn_k", "attn_v")


@attrs.frozen
class Source:
    """What a Hugging Face tensor is made of.

    Attributes:
        tensors: the GGUF tensors, in the order that ``layout`` takes them.
        layout: how they make the tensor.
        shape: of the tensor that they make.
        expert: which of the stacked matrices, where it is one.
        rows: the rows that it takes of a tensor that holds several.
        value: the tensor itself, where it is metadata.
    """

    tensors: tuple[GGUFTensor, ...]
    layout: Layout
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None
    value: npt.NDArray[np.float32] | None = None


def sources_of(header: GGUFHeader, family: Family, config: Mapping[str, Any]) -> dict[str, Source]:
    """Hugging Face's name -> what it is made of, in the file's order.

    Raises:
        CheckpointError: a tensor is held twice, a part is missing, or the layers are not those that the metadata counts.
        UnsupportedModel: a tensor's name or type is not one that is read.
    """
    table = name_table(family)
    found: dict[str, Source] = {}
    grouped: dict[Place, dict[int, GGUFTensor]] = {}
    layers: set[int] = set()
    count = config[family.key("num_hidden_layers")]
    ahead = layers_ahead(header, family)
    for tensor in header.tensors:
        if tensor.name in ROPE_TENSORS or _layer_of(tensor.name) in range(count, count + ahead):
            continue
        _check_kind(header, tensor)
        place = table.place(tensor.name)
        if place is None:
            split = _split(header, table, tensor, config)
            if not split:
                raise UnsupportedModel(
                    f"{header.path} holds the tensor {tensor.name[:80]!r}, which a {family.model_type} decoder does not have."
                )
            for name, source in split.items():
                _add(header, found, name, source)
            layers.add(int(tensor.name.split(".")[1]))
            continue
        if "{}" in place.module.name:
            layers.add(place.layer)
        if family.shares and is_spare(place.name(), config, family, count):
            continue
        if len(place.module.tensors) > 1:
            grouped.setdefault(attrs.evolve(place, part=0), {})[place.part] = tensor
            if len(grouped[attrs.evolve(place, part=0)]) < len(place.module.tensors):
                continue
            parts = grouped.pop(attrs.evolve(place, part=0))
            _add(header, found, place.name(), _whole(header, place, tuple(parts[part] for part in range(len(parts)))))
        elif "{expert}" in place.module.name:
            for expert in range(_stacked(header, place, tensor, config)):
                _add(header, found, place.name(expert), Source((tensor,), place.layout, tensor.shape[1:], expert))
        else:
            _add(header, found, place.name(), _whole(header, place, (tensor,)))
    for place in grouped:
        raise CheckpointError(f"{header.path} holds only a part of {place.name()}; get it again.")
    _check_layers(header, layers, count)
    found |= _scalars(header, family, count)
    return found


def t5_sources(header: GGUFHeader, config: Mapping[str, Any]) -> dict[str, Source]:
    """The same of a T5, whose tensors are Hugging Face's under other names; errors as of ``sources_of``."""
    found: dict[str, Source] = {}
    layers: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for tensor in header.tensors:
        _check_kind(header, tensor)
        name = t5_name(tensor.name, gated=config["feed_forward_proj"] == "gated-gelu")
        if name is None:
            raise UnsupportedModel(f"{header.path} holds the tensor {tensor.name[:80]!r}, which a T5 does not have.")
        _add(header, found, name, Source((tensor,), Same(), tensor.shape))
        if ".block." in name:
            side, _, layer, *_ = name.split(".")
            layers[side].add(int(layer))
    _check_layers(header, layers["encoder"], config["num_layers"])
    _check_layers(header, layers["decoder"], config["num_decoder_layers"])
    return found


def _check_kind(header: GGUFHeader, tensor: GGUFTensor) -> None:
    if tensor.kind not in READABLE:
        known = ", ".join(kind.name for kind in READABLE)
        raise UnsupportedModel(f"{header.path} holds {tensor.name!r} as {tensor.kind.name}, and the types read are {known}.")


def _scalars(header: GGUFHeader, family: Family, layers: int) -> dict[str, Source]:
    """Tensors of one number a layer, which are metadata: an array, or one number for all."""
    found = {}
    for name, (key, shape) in family.scalars.items():
        told = key.format(arch=family.arch)
        held = header.metadata.get(told)
        values = np.full(layers, meta.number(header, told)) if not hasattr(held, "__len__") else meta.numbers(header, told, layers)
        for layer, value in enumerate(np.asarray(values, np.float32)):
            found[name.format(layer)] = Source((), Same(), shape, value=np.full(shape, value, np.float32))
    return found


def _layer_of(name: str) -> int | None:
    pieces = name.split(".")
    return int(pieces[1]) if pieces[0] == "blk" and len(pieces) > 1 and pieces[1].isdecimal() and len(pieces[1]) < 7 else None


def _whole(header: GGUFHeader, place: Place, tensors: tuple[GGUFTensor, ...]) -> Source:
    shapes = [tensor.shape for tensor in tensors]
    if len({len(shape) for shape in shapes}) > 1 or any(len(shape) > 3 for shape in shapes):
        raise CheckpointError(f"{header.path} holds {tensors[0].name!r} in the shape {shapes[0]}, which no such tensor has; get it again.")
    try:
        shape = place.layout.shape(shapes)
    except (IndexError, ValueError):
        raise CheckpointError(
            f"{header.path} holds {tensors[0].name!r} in the shape {shapes[0]}, which no such tensor has; get it again."
        ) from None
    return Source(tensors, place.layout, shape)


def _stacked(header: GGUFHeader, place: Place, tensor: GGUFTensor, config: Mapping[str, Any]) -> int:
    """How many matrices a tensor holds, which must be as many as the config says."""
    if len(tensor.shape) < 2 or tensor.shape[0] > MAX_STACKED:
        raise CheckpointError(f"{header.path} holds {tensor.name!r} in the shape {tensor.shape}, which no stack has; get it again.")
    keys = _EXPERT_COUNTS if "experts" in place.module.name else _HEAD_COUNTS["k_" in place.module.name]
    told = next((config[key] for key in keys if config.get(key) is not None), None)
    if "altup" in place.module.name:
        told = config["altup_num_inputs"] - 1  # the first input is not projected
    if told != tensor.shape[0]:
        raise CheckpointError(
            f"{header.path} holds {tensor.shape[0]} matrices in {tensor.name!r}, and its metadata says {told}; get it again."
        )
    return tensor.shape[0]


def _split(header: GGUFHeader, table: NameTable, tensor: GGUFTensor, config: Mapping[str, Any]) -> dict[str, Source]:
    """Queries, keys and values of a family that has them apart, from a tensor that holds them as one; empty where it is none."""
    pieces = tensor.name.split(".")
    if len(pieces) != 4 or pieces[2] != _FUSED:
        return {}
    places = [table.place(f"{pieces[0]}.{pieces[1]}.{name}.{pieces[3]}") for name in _QKV]
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if None in places or not isinstance(heads, int) or not isinstance(groups, int):
        return {}
    rows = tensor.shape[0]
    if rows % (heads + 2 * groups):
        raise CheckpointError(f"{header.path} gives {tensor.name!r} {rows} rows, which {heads} and {groups} heads cannot share.")
    width = rows // (heads + 2 * groups)
    ends = [0, heads * width, (heads + groups) * width, rows]
    return {
        place.name(): Source((tensor,), place.layout, (stop - start, *tensor.shape[1:]), rows=(start, stop))
        for place, start, stop in zip(places, ends, ends[1:], strict=False)
        if place is not None
    }


def _add(header: GGUFHeader, found: dict[str, Source], name: str, source: Source) -> None:
    if name in found:
        raise CheckpointError(f"{header.path} holds two tensors for {name}; get it again.")
    if len(found) >= MAX_TENSORS:
        raise CheckpointError(f"{header.path} holds more tensors than any model has; get it again.")
    found[name] = source


def _check_layers(header: GGUFHeader, layers: set[int], count: int) -> None:
    if layers and (len(layers) != count or max(layers) != count - 1):
        raise CheckpointError(f"{header.path} says that it has {count} layers and holds tensors of {len(layers)}; get it again.")

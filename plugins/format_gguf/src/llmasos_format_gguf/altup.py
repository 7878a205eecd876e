"""Gemma 3n: what llama.cpp takes as given of its layers (alternating updates, arXiv:2301.13310, and sparse activations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader
from llmasos_format_gguf.sharing import FULL, LOCAL, check_sharing, shared_layers
from llmasos_hookspecs import UnsupportedModel

#: How many of the first layers have keys and values of their own, and how many keep few of their activations, and which share they drop.
_UNSHARED: Final = 20
_SPARSE: Final = 10
_DROPPED: Final = 0.95

#: The quantile of that share: how many standard deviations above the mean an activation is kept.
_QUANTILE: Final = 1.6448533535003662


def sparsity(layers: int) -> list[float]:
    """The share of activations that each layer drops."""
    sparse = _SPARSE if layers > _SPARSE else 0
    return [_DROPPED] * sparse + [0.0] * (layers - sparse)


def read_rest(header: GGUFHeader, family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """What follows of the tensors, and of what is given.

    Raises:
        UnsupportedModel: the file says otherwise.
    """
    kinds, where = config["layer_types"], str(header.path)
    _check(config, kinds, family, where)
    wanted = sparsity(len(kinds))
    told = meta.numbers(header, Keys.LLM.ACTIVATION_SPARSITY_SCALE.format(arch=family.arch), len(kinds))
    if told is not None and [value > 0 for value in told.tolist()] != [value > 0 for value in wanted]:
        raise UnsupportedModel(f"{where} keeps few activations in other layers than the first {_SPARSE}, which no {family.arch} does.")
    rows = next((tensor.shape[0] for tensor in header.tensors if tensor.name == "per_layer_token_embd.weight"), config["vocab_size"])
    return {"activation_sparsity_pattern": wanted, "vocab_size_per_layer_input": rows}


def write_layers(config: Mapping[str, Any], family: Family, kinds: Sequence[str], where: str) -> dict[str, Any]:
    """The metadata about the layers, by keys with ``{arch}``.

    Raises:
        UnsupportedModel: the layers are others than llama.cpp takes as given.
    """
    _check(config, kinds, family, where)
    scales = [np.float32(_QUANTILE if value else -np.inf) for value in sparsity(len(kinds))]
    return {Keys.LLM.ACTIVATION_SPARSITY_SCALE: scales}


def unread_tensors(config: Mapping[str, Any], family: Family, sizes: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Keys and values of layers that take those of others: llama.cpp wants the tensors and does not compute with them."""
    layers, hidden = sizes["num_hidden_layers"], sizes["hidden_size"]
    rows, width = sizes["num_key_value_heads"] * sizes["head_dim"], sizes["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"attn_k": (rows, hidden), "attn_v": (rows, hidden), "attn_k_norm": (width,)}
    return {
        f"blk.{layer}.{name}.weight": np.zeros(shape, np.float32)
        for layer in range(layers - shared_layers(config, family), layers)
        for name, shape in shapes.items()
    }


def _check(config: Mapping[str, Any], kinds: Sequence[str], family: Family, where: str) -> None:
    unshared = len(kinds) - shared_layers(config, family)
    if unshared != min(_UNSHARED, len(kinds)):
        raise UnsupportedModel(f"{where} has {unshared} layers with keys and values of their own, and a GGUF of {family.arch} {_UNSHARED}.")
    if list(kinds) != [LOCAL if (layer + 1) % family.windows else FULL for layer in range(len(kinds))]:
        raise UnsupportedModel(f"{where} has other layers with a window than all but each fifth, which a GGUF of {family.arch} cannot say.")
    check_sharing(config, kinds, family, where)

"""Which layers have an MLP and which have experts, where a config lists it; GGUF counts the first ones, which have an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import CheckpointError, UnsupportedModel

_DENSE: Final = "dense"
_SPARSE: Final = "sparse"


def read_mlp_kinds(header: GGUFHeader, family: Family, layers: int) -> list[str]:
    """``mlp_layer_types`` of a config.

    Raises:
        CheckpointError: the file counts more layers than it has.
    """
    key = Keys.LLM.LEADING_DENSE_BLOCK_COUNT.format(arch=family.arch)
    if key not in header.metadata:
        routers = {tensor.name for tensor in header.tensors if tensor.name.endswith(".ffn_gate_inp.weight")}
        return [_SPARSE if f"blk.{layer}.ffn_gate_inp.weight" in routers else _DENSE for layer in range(layers)]
    dense = meta.natural(header, key, 0)
    if dense > layers:
        raise CheckpointError(f"{header.path} says that {dense} of its {layers} layers have no experts; get it again.")
    return [_DENSE] * dense + [_SPARSE] * (layers - dense)


def mlp_kinds(config: Mapping[str, Any], family: Family, layers: int, where: str) -> list[str]:
    """``mlp_layer_types`` of a config, with what transformers takes where it is silent.

    Raises:
        CheckpointError: there is no kind for each layer.
        UnsupportedModel: layers with an MLP follow some with experts, which GGUF cannot say.
    """
    found = config.get("mlp_layer_types")
    if found is None:
        dense = config.get("first_k_dense_replace", family.dense) if family.model_type == "exaone_moe" else family.dense
        if not isinstance(dense, int) or isinstance(dense, bool) or not dense >= 0:
            raise CheckpointError(f"{where} has first_k_dense_replace = {str(dense)[:40]}, and a whole number is needed; mend it.")
        found = [_DENSE] * min(dense, layers) + [_SPARSE] * (layers - dense)
    if not isinstance(found, list) or len(found) != layers or not all(kind in (_DENSE, _SPARSE) for kind in found):
        raise CheckpointError(f"{where} has no list of {layers} mlp_layer_types, each {_DENSE} or {_SPARSE}; mend it.")
    if found != sorted(found):
        raise UnsupportedModel(f"{where} has layers without experts after some with, which a GGUF of {family.arch} cannot say.")
    return found

"""Models whose last layers take keys and values of earlier ones (Gemma 3n and Gemma 4).

Each of them takes those of the last layer of its kind before them all, which llama.cpp finds by its place: the very last where it attends
to all, the one before it where it has a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_format_gguf.family import Family
from llmasos_hookspecs import CheckpointError, UnsupportedModel

FULL: Final = "full_attention"
LOCAL: Final = "sliding_attention"

#: Embeddings of tokens for each layer.
TABLE: Final = "model.embed_tokens_per_layer"

#: What a layer that takes another's keys and values does not need, though checkpoints and files may hold it.
_SPARE: Final = ("self_attn.k_proj.", "self_attn.v_proj.", "self_attn.k_norm.")


def shared_layers(config: Mapping[str, Any], family: Family) -> int:
    """How many of the last layers take keys and values of earlier ones."""
    default = next(field.default for field in family.fields if field.name == "num_kv_shared_layers")
    found = config.get("num_kv_shared_layers", default)
    return found if isinstance(found, int) and found > 0 else 0


def is_spare(name: str, config: Mapping[str, Any], family: Family, layers: int) -> bool:
    """Whether a tensor by Hugging Face's name belongs to keys or values that the layer takes from another."""
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    if not number.isdecimal() or len(number) > 6 or not rest.startswith(_SPARE):
        return False
    return int(number) >= layers - shared_layers(config, family)


def check_sharing(config: Mapping[str, Any], kinds: Sequence[str], family: Family, where: str) -> None:
    """Hold the kinds of layers against what llama.cpp and transformers both compute.

    Raises:
        CheckpointError: more layers share than there are.
        UnsupportedModel: a layer is of another kind, the last one has a window, or layers share with others than llama.cpp takes.
    """
    if unknown := set(kinds) - {FULL, LOCAL}:
        raise UnsupportedModel(f"{where} has layers of the kind {min(unknown)[:40]!r}, which a GGUF of {family.arch} does not know.")
    if family.two_widths and kinds[-1] != FULL:
        raise UnsupportedModel(f"{where} has a window in its last layer, which transformers does not compute.")
    shared = shared_layers(config, family)
    if (start := len(kinds) - shared) < 1:
        raise CheckpointError(f"{where} has {shared} of {len(kinds)} layers without keys of their own; mend it or get it again.")
    last = {FULL: kinds[start - 1], LOCAL: kinds[start - 2] if start > 1 else None}
    if any(last[kind] != kind for kind in kinds[start:]):
        raise UnsupportedModel(
            f"{where} has layers that take keys and values of others than the two before them, which a GGUF of {family.arch} cannot say."
        )


def check_tables(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Hold the table of embeddings for each layer against the vocabulary: llama.cpp wants both of one length.

    Raises:
        UnsupportedModel: they differ.
    """
    if not any(module.name == TABLE for module in family.modules) or not config.get("hidden_size_per_layer_input", 256):
        return
    vocabulary, rows = config.get("vocab_size"), config.get("vocab_size_per_layer_input", 262144)
    if rows != vocabulary:
        raise UnsupportedModel(
            f"{where} has vocab_size = {str(vocabulary)[:20]} and vocab_size_per_layer_input = {str(rows)[:20]}, which GGUF wants alike."
        )

"""``config.json`` as the metadata of a GGUF file, and whether a file says all that the config does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf.constants import Keys

from llmasos_format_gguf import alone, altup, metadata as meta, two_widths
from llmasos_format_gguf.config import MAX_LAYERS
from llmasos_format_gguf.dense import mlp_kinds
from llmasos_format_gguf.families import FAMILIES
from llmasos_format_gguf.family import Family, Field
from llmasos_format_gguf.latent import write_latent
from llmasos_format_gguf.rope import Rope, llama3_divisors, rope_of, write_rope
from llmasos_format_gguf.sharing import check_tables
from llmasos_format_gguf.state import (
    feed_forward_width,
    jamba_layers,
    jamba_periods,
    layer_kinds,
    state_sizes,
    write_groups,
    write_state,
)
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Sizes that every config has -> their metadata keys.
_SIZES: Final = {
    "hidden_size": Keys.LLM.EMBEDDING_LENGTH,
    "intermediate_size": Keys.LLM.FEED_FORWARD_LENGTH,
    "num_hidden_layers": Keys.LLM.BLOCK_COUNT,
    "num_attention_heads": Keys.Attention.HEAD_COUNT,
    "num_key_value_heads": Keys.Attention.HEAD_COUNT_KV,
    "max_position_embeddings": Keys.LLM.CONTEXT_LENGTH,
}

_SIZES_WITHOUT_ATTENTION: Final = ("hidden_size", "num_hidden_layers")

#: How the kinds of a ``Field`` are stored.
_STORED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "count": np.uint32,
    "natural": np.uint32,
    "number": meta.stored,
    "whole": meta.stored,
    "flag": bool,
}

#: Names that transformers has for one thing.
_SAME_THING: Final = (
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "moe_k", "moe_topk"),
)
_ALIASES: Final = {name: tuple(other for other in names if other != name) for names in _SAME_THING for name in names}

#: Keys of which some configs have one number a layer; GGUF has one for all.
_PER_LAYER: Final = ("moe_topk", "num_experts")

#: Keys of a config that change what a model computes without a family here having them: one that is set is not written over silently.
_COMPUTED: Final = (
    "attn_config.softmax_scale", "attn_config.prefix_lm", "use_bidirectional_attention", "use_sliding_window", "num_nextn_predict_layers",
    "moe_layer_end_index", "mlp_layer_types",
    "time_step_limit",
)  # fmt: skip

#: Keys that are compared in a form of their own, or say nothing of what a model computes.
_ROPE_KEYS: Final = (
    "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_emb_base", "rotary_pct", "rope_local_base_freq",
    "original_max_position_embeddings",
)  # fmt: skip
_DERIVED: Final = ("moe_layers", "layer_types", "no_rope_layers", "head_dim", "num_ln_in_parallel_attn", "vocab_size_per_layer_input")
_SILENT: Final = (
    "architectures",
    "model_type",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "tie_word_embeddings",
)


def sizes_of(config: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """The sizes of a config by their common names, ``head_dim`` among them, with what transformers takes for those left out.

    Raises:
        CheckpointError: a size is missing or impossible.
    """
    found: dict[str, Any] = {}
    for name in _SIZES if family.attention else _SIZES_WITHOUT_ATTENTION:
        if name == "intermediate_size" and not family.mlp:
            continue
        value = config.get(family.key(name))
        if value is None:
            value = config.get(name)
        found[name] = family.defaults.get(name) if value is None else _one_for_all(value)
    if not family.attention:
        _check_sizes(found, family, where)
        return found
    if family.model_type == "lfm2":
        found["intermediate_size"] = feed_forward_width(config, found["intermediate_size"])
    if family.alone:
        found["num_hidden_layers"] = len(alone.layer_kinds(config, family, where))
    if family.four and found["intermediate_size"] is None and isinstance(found["hidden_size"], int):
        found["intermediate_size"] = 4 * found["hidden_size"]
    if not family.grouped or found["num_key_value_heads"] is None:
        found["num_key_value_heads"] = found["num_attention_heads"]
    if family.kv_heads is not None:
        found["num_key_value_heads"] = family.kv_heads
    _check_sizes(found, family, where)
    told = config.get("qk_rope_head_dim") if family.latent else config.get("head_dim") if family.head_dim else None
    default = family.head_dim if type(family.head_dim) is int else None
    found["head_dim"] = told or default or found["hidden_size"] // found["num_attention_heads"]
    if family.two_widths:
        kinds = _layer_types(config, family, found["num_hidden_layers"], _window(config, family), where)
        found |= two_widths.sizes_of(config, found, kinds, where)
    return found


def _check_sizes(found: Mapping[str, Any], family: Family, where: str) -> None:
    for name, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise CheckpointError(f"{where} has {family.key(name)} = {value!r}, and a whole number above 0 is needed; mend it.")
    if found["num_hidden_layers"] > MAX_LAYERS:
        raise CheckpointError(f"{where} has {found['num_hidden_layers']} layers, more than any model; mend it.")


def layout_config(config: Mapping[str, Any], sizes: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The config with its sizes under the names that layouts ask for."""
    state = {} if family.state is None or not config else state_sizes(config, family.state, sizes["hidden_size"], "config.json")
    return dict(config) | state | dict(sizes) | {family.key(name): value for name, value in sizes.items()}


def metadata_of(
    config: Mapping[str, Any], family: Family, sizes: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """The metadata of the architecture, and the tensors that say how rotary frequencies are scaled.

    Numbers are of the numpy type that the file has them in.

    Raises:
        UnsupportedModel: the config asks for what GGUF cannot say.
        CheckpointError: a value is missing or of the wrong kind.
    """
    arch = family.arch
    found: dict[str, Any] = {key: np.uint32(sizes[name]) for name, key in _SIZES.items() if name in sizes}
    if family.head_dim:
        found[Keys.Attention.KEY_LENGTH] = found[Keys.Attention.VALUE_LENGTH] = np.uint32(sizes["head_dim"])
    if family.value_dim is not None:
        found[Keys.Attention.VALUE_LENGTH] = np.uint32(config.get(*family.value_dim))
    epsilon = config.get(family.norm, family.epsilon) if family.norm else family.epsilon
    if not isinstance(epsilon, (int, float)) or not 0 <= epsilon < 1:
        raise CheckpointError(f"{where} has {family.norm} = {_short(epsilon)}, and a small number is needed; mend it.")
    found[Keys.Attention.LAYERNORM_RMS_EPS if family.rms else Keys.Attention.LAYERNORM_EPS] = np.float32(epsilon)
    for field in family.fields:
        value = _value(config, field, where)
        if value is not None:
            found[field.key] = _STORED[field.kind](value)
    values = dict(sizes) | {field.name: _value(config, field, where) for field in family.fields}
    for key, names in family.written.items():
        found[key] = np.uint32(math.prod(values[name] for name in names))
    found |= {key: value if isinstance(value, bool) else np.uint32(value) for key, value in family.constants.items()}
    if family.state is not None:
        found |= write_state(config, family, sizes["hidden_size"], where)
    if family.hybrid:
        found |= write_groups(config, family, sizes, where)
    if family.alone:
        found[Keys.Attention.LAYERNORM_EPS] = np.float32(epsilon)  # llama.cpp wants it by both names
        found |= alone.write_widths(config, family, sizes["intermediate_size"] if family.mlp else values["moe_intermediate_size"], where)
    if family.model_type == "granitemoehybrid":
        found[Keys.Rope.SCALING_FINETUNED] = config.get("position_embedding_type") == "rope"
    if family.latent:
        found |= write_latent(config, where, joint=family.joint)
    if family.dense is not None:
        kinds = mlp_kinds(config, family, sizes["num_hidden_layers"], where)
        found[Keys.LLM.LEADING_DENSE_BLOCK_COUNT] = np.uint32(kinds.count("dense"))
    if family.windows:
        layers, window = sizes["num_hidden_layers"], _window(config, family)
        kinds = _layer_types(config, family, layers, window, where)
        local = [kind == "sliding_attention" for kind in kinds]
        found[Keys.Attention.SLIDING_WINDOW_PATTERN] = local
        if family.local_groups > 1:
            groups = sizes["num_key_value_heads"]
            found[Keys.Attention.HEAD_COUNT_KV] = [np.uint32(groups * (family.local_groups if each else 1)) for each in local]
        if family.two_widths:
            found |= two_widths.write_layers(config, family, sizes, kinds, where)
        if family.model_type == "gemma3n_text":
            found |= altup.write_layers(config, family, kinds, where)
    if family.shares:
        check_tables(config, family, where)
    metadata = {key.format(arch=arch): value for key, value in found.items()}
    if not family.rope:
        return metadata, {}
    original = config.get("original_max_position_embeddings")
    more, tensors = write_rope(
        rope_of(config, family),
        family,
        _rotated(sizes),
        sizes["max_position_embeddings"],
        original if isinstance(original, int) else None,
    )
    if family.model_type == "gemma3n_text":
        tensors |= altup.unread_tensors(config, family, sizes)
    return metadata | more, tensors


def check_same(config: Mapping[str, Any], described: Mapping[str, Any], family: Family, sizes: Mapping[str, Any], where: str) -> None:
    """Hold the config that was read back from a file against the one that it was written from.

    Raises:
        UnsupportedModel: a key that changes what the model computes has another value, so that GGUF cannot say it.
    """
    expected = layout_config({}, sizes, family)
    # A common name may be that of a field: the width of Llama 4's experts is called what others call that of their MLP.
    for name in family.rename:
        if any(field.name == name for field in family.fields):
            del expected[name]
    if family.state is not None:
        expected |= state_sizes(config, family.state, sizes["hidden_size"], where)
    if family.model_type == "falcon_h1" and config.get("tie_word_embeddings") and not _plain_embedding(config):
        raise UnsupportedModel(f"{where} multiplies an embedding that is the head too, which a GGUF of {family.arch} cannot say.")
    if family.model_type == "jamba":
        expected |= jamba_periods(*jamba_layers(config, sizes["num_hidden_layers"], where), where)
    elif family.alone:
        expected[alone.KINDS] = alone.layer_kinds(config, family, where)
    elif family.hybrid:
        expected["layer_types"] = layer_kinds(config, family, sizes["num_hidden_layers"], where)
    if family.dense is not None:
        expected["mlp_layer_types"] = mlp_kinds(config, family, sizes["num_hidden_layers"], where)
    if family.two_widths:
        kinds = _layer_types(config, family, sizes["num_hidden_layers"], _window(config, family), where)
        expected |= two_widths.implied(config, family, kinds)
    if family.model_type == "gemma3n_text" and config.get("activation_sparsity_pattern") is None:
        expected["activation_sparsity_pattern"] = altup.sparsity(sizes["num_hidden_layers"])
    if family.model_type == "lfm2":
        expected["block_auto_adjust_ff_dim"] = False  # the width that was written is the adjusted one
    if family.model_type == "granitemoehybrid" and config.get("position_embedding_type") is None:
        expected["position_embedding_type"] = "nope"
    for key, value in _flat(described).items():
        if key in _ROPE_KEYS or key in _SILENT or (key == "num_nextn_predict_layers" and family.ahead):
            continue
        told = expected.get(key, _look_up(config, key))
        if told is None and value not in (None, False) and _default(family, key) is not ...:
            told = _default(family, key)
        if told is None and (key in family.present or key in _DERIVED):
            continue  # the tensors say it, or transformers makes it of other keys
        if not _equal(told, value) and (told is not None or value not in (None, False, [])):
            raise UnsupportedModel(f"{where} has {key} = {_short(told)}, and a GGUF of {family.arch} can only say {_short(value)}.")
    written = set(_flat(described)) | set(expected) | set(_ROPE_KEYS) | set(family.ignored)
    for key in sorted(_known_keys() - written):
        if (value := _look_up(config, key)) and written.isdisjoint(_ALIASES.get(key, ())) and not _harmless(key, value, config):
            raise UnsupportedModel(f"{where} has {key} = {_short(value)}, which a GGUF of {family.arch} cannot say.")
    if family.rope and not _same_rope(rope_of(config, family), rope_of(described, family), _rotated(sizes)):
        raise UnsupportedModel(f"{where} has rotary embeddings that a GGUF of {family.arch} cannot say; export to another format.")


def _rotated(sizes: Mapping[str, Any]) -> int:
    """The width of the heads whose rotation is told first: those of layers that attend to all."""
    return int(sizes.get("global_head_dim") or sizes["head_dim"])


def _plain_embedding(config: Mapping[str, Any]) -> bool:
    return all(config.get(key) in (None, 1.0) for key in ("embedding_multiplier", "lm_head_multiplier"))


def _value(config: Mapping[str, Any], field: Field, where: str) -> Any:
    value = _look_up(config, field.name)
    if value is None and (field.name.rpartition(".")[2] not in _object(config, field.name) or field.default is ...):
        value = field.default
    if value is ...:
        raise CheckpointError(f"{where} has no {field.name}, which a GGUF needs; mend it.")
    if value is None:
        return field.off
    if isinstance(value, bool) != (field.kind == "flag") or not isinstance(value, (int, float)):
        raise CheckpointError(f"{where} has {field.name} = {_short(value)}, and a {field.kind} is needed; mend it.")
    if field.kind in ("count", "natural") and (not isinstance(value, int) or not 0 <= value < 2**31):
        raise CheckpointError(f"{where} has {field.name} = {_short(value)}, and a whole number is needed; mend it.")
    return value


def _window(config: Mapping[str, Any], family: Family) -> Any:
    field = next(field for field in family.fields if field.name == "sliding_window")
    return config.get("sliding_window", field.default)


def _layer_types(config: Mapping[str, Any], family: Family, layers: int, window: Any, where: str) -> list[Any]:
    found = config.get("layer_types")
    if found is None:
        period = config.get("sliding_window_pattern")
        period = period if isinstance(period, int) and period > 0 else family.windows
        local = [window is not None and layer >= family.opening and (layer + 1) % period != 0 for layer in range(layers)]
        found = ["sliding_attention" if each else "full_attention" for each in local]
    if not isinstance(found, list) or len(found) != layers:
        raise CheckpointError(f"{where} has no list of {layers} layer_types; mend it.")
    return [*found[:-1], "full_attention"] if family.two_widths else found  # transformers takes the last one so in any case


def _known_keys() -> set[str]:
    """Keys that change what a model of any family computes."""
    found = set(_COMPUTED)
    for family in FAMILIES:
        found |= {field.name for field in family.fields} | set(family.fixed) | set(family.present) | {"layer_types", "head_dim"}
    return found


def _harmless(key: str, value: Any, config: Mapping[str, Any]) -> bool:
    """Whether a key that a family does not have says what it does anyhow."""
    if key == "moe_layer_end_index":
        return value in (-1, config.get("num_hidden_layers", 0) - 1)
    if key == "use_bidirectional_attention":
        return bool(value == "vision")  # text attends to what was before
    if key == "time_step_min":
        return True  # weights are made by it; Nemotron-H alone computes with it too
    if key == "time_step_limit":
        return isinstance(value, (list, tuple)) and list(value) in ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])
    if key == "layer_types":
        return isinstance(value, list) and set(value) == {"full_attention"}
    if key == "sliding_window":
        context = config.get("max_position_embeddings")
        return config.get("use_sliding_window") is False or (isinstance(value, int) and isinstance(context, int) and value >= context)
    if key in ("hidden_act", "hidden_activation", "activation_function"):
        return any(other in config for other in ("hidden_activation", "activation", "activation_function", "hidden_act") if other != key)
    return key == "head_dim" or (isinstance(value, float) and value == 1.0)


def _same_rope(one: Rope, other: Rope, head_dim: int) -> bool:
    if not _equal(one.theta, other.theta) or int(head_dim * one.share) != int(head_dim * other.share):
        return False
    if not _equal(one.local_theta, other.local_theta) or (one.scaling is None) != (other.scaling is None):
        return False
    if one.scaling is None or other.scaling is None:
        return True
    if one.scaling["rope_type"] == other.scaling["rope_type"] == "llama3":
        rotated = int(head_dim * one.share)
        return np.allclose(
            llama3_divisors(one.scaling, one.theta, rotated), llama3_divisors(other.scaling, other.theta, rotated), rtol=1e-4
        )
    implied = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, "factor": None, "original_max_position_embeddings": None}
    keys = {*one.scaling, *other.scaling}
    if one.scaling["rope_type"] == "longrope":
        keys -= {"factor", "original_max_position_embeddings"}
    return all(
        _equal(one.scaling.get(key, implied.get(key)), other.scaling.get(key, implied.get(key)))
        or (key == "original_max_position_embeddings" and one.scaling.get(key) is None)
        for key in keys
    )


def _default(family: Family, key: str) -> Any:
    """What transformers takes for a key that a config leaves out; ``...`` where the table does not say."""
    if key in family.fixed:
        return family.fixed[key]
    if key == family.norm:
        return family.epsilon
    if key == "query_pre_attn_scalar":
        return 256
    if key == "topk_method":
        return "greedy"
    if key == "use_qk_norm" and family.model_type == "llama4_text":
        return True
    return next((field.default for field in family.fields if field.name == key), ...)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config, those of objects that the table names under a key with a dot."""
    found = {key: value for key, value in config.items() if key != "attn_config"}
    return found | {f"attn_config.{key}": value for key, value in (config.get("attn_config") or {}).items()}


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    outer, _, inner = name.partition(".")
    found = config.get(outer) if inner else config
    return found if isinstance(found, Mapping) else {}


def _look_up(config: Mapping[str, Any], name: str) -> Any:
    inside = _object(config, name)
    found = inside.get(name.rpartition(".")[2])
    if name == "sliding_window" and config.get("model_type") == "mimo_v2_flash" and isinstance(config.get("sliding_window_size"), int):
        found = config["sliding_window_size"] + 1  # without the token itself
    if name in _PER_LAYER:
        found = _one_for_all(found)
    others = (value for other in _ALIASES.get(name, ()) if (value := inside.get(other)) is not None)
    return next(others, None) if found is None else found


def _one_for_all(value: Any) -> Any:
    """What a list for each layer has in all of them; another value as it is."""
    return value[0] if isinstance(value, list) and value and all(each == value[0] for each in value) else value


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are the same in the file's float32."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, other))
    if not numbers:
        return bool(one == other)
    with np.errstate(over="ignore"):
        return bool(np.float32(one) == np.float32(other))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

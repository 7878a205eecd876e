"""The config of an encoder, in one form for all families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_encoder_kit.names import FAMILIES, EncoderFamily
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Other names of sizes: DistilBERT's, and those of NomicBERT's authors.
_NAMES: Final = {
    "hidden_size": ("hidden_size", "dim", "n_embd"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "n_inner"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
}
_ACTIVATIONS: Final = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "silu": "silu", "swish": "silu", "swiglu": "silu", "geglu": "gelu",
}  # fmt: skip
#: Larger sizes are damage: no encoder comes near.
_MOST: Final = 1 << 24


@attrs.frozen(kw_only=True)
class EncoderLayer:
    """What may differ from layer to layer.

    Attributes:
        theta: base of the rotation; 0 where positions are learned.
        window: a token attends to others at most so far away; None: to all.
    """

    theta: float = 0.0
    window: int | None = None


@attrs.frozen(kw_only=True)
class EncoderConfig:
    """What an encoder computes. Sizes as in ``config.json``.

    Attributes:
        model_type: of the family.
        activation: ``gelu``, ``gelu_tanh``, ``relu`` or ``silu``.
        norm_eps: of every layer norm.
        first_position: the position of the first token.
        positions: tokens that a text may have.
        types: segments that are told apart; 0: none.
        buckets: of the table of attention biases by distance; 0: there is none.
        layers: one for each layer.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    activation: str
    norm_eps: float
    first_position: int
    positions: int
    types: int
    buckets: int
    layers: Sequence[EncoderLayer]

    @property
    def family(self) -> EncoderFamily:
        return FAMILIES[self.model_type]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


def read_config(config: Mapping[str, Any], where: str) -> EncoderConfig:
    """A ``config.json`` as an encoder.

    Raises:
        UnsupportedModel: it is of no family here, or of a form of one that is not computed.
        CheckpointError: a size is missing or impossible.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None or not isinstance(kind, str):
        raise UnsupportedModel(f"{where} is of model_type {str(kind)[:40]!r}, and encoders of {', '.join(FAMILIES)} are computed.")
    if reason := _beyond(config):
        raise UnsupportedModel(f"{where} {reason}, which is not computed.")
    size = {name: _size(config, name, where) for name in _NAMES}
    if size["hidden_size"] % size["num_attention_heads"]:
        raise CheckpointError(f"{where} has a hidden size of {size['hidden_size']} for {size['num_attention_heads']} heads; get it again.")
    first = first_position(config, where)
    activation = config.get("hidden_act", config.get("hidden_activation", config.get("activation", config.get("activation_function"))))
    activation = family.activation if activation is None else activation
    if activation not in _ACTIVATIONS:
        raise UnsupportedModel(f"{where} has the activation {str(activation)[:40]!r}, and {', '.join(sorted(_ACTIVATIONS))} are computed.")
    positions = size["max_position_embeddings"] - first
    if positions < 1:
        raise CheckpointError(f"{where} has no position for a token; get it again.")
    return EncoderConfig(
        model_type=kind,
        vocab_size=_whole(config, "vocab_size", None, where),
        hidden_size=size["hidden_size"],
        num_heads=size["num_attention_heads"],
        intermediate_size=size["intermediate_size"],
        activation=_ACTIVATIONS[activation],
        norm_eps=_norm_eps(config),
        first_position=first,
        positions=positions,
        types=_whole(config, "type_vocab_size", 2, where) if family.names[0].types else 0,
        buckets=_whole(config, "relative_attention_num_buckets", 32, where) if family.names[0].relative else 0,
        layers=_layers(config, kind, size["num_hidden_layers"]),
    )


def first_position(config: Mapping[str, Any], where: str) -> int:
    """The position of a text's first token: 0, or one more than the padding token's id in families that count from there.

    Raises:
        CheckpointError: the padding token's id is impossible.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None or not family.counts_from_padding:
        return 0
    return (1 if kind == "mpnet" else _whole(config, "pad_token_id", 1, where)) + 1


def _layers(config: Mapping[str, Any], kind: str, count: int) -> tuple[EncoderLayer, ...]:
    if kind == "nomic_bert":
        theta = _theta(config, "", float(config.get("rotary_emb_base", 1000.0)))
        return (EncoderLayer(theta=theta),) * count
    if kind != "modernbert":
        return (EncoderLayer(),) * count
    every = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != count:
        kinds = ["full_attention" if index % every == 0 else "sliding_attention" for index in range(count)]
    whole = EncoderLayer(theta=_theta(config, "full_attention", float(config.get("global_rope_theta", 160_000.0))))
    near = EncoderLayer(
        theta=_theta(config, "sliding_attention", float(config.get("local_rope_theta", 10_000.0))),
        window=int(config.get("local_attention", 128)) // 2,
    )
    return tuple(near if each == "sliding_attention" else whole for each in kinds)


def _theta(config: Mapping[str, Any], kind: str, default: float) -> float:
    found = config.get("rope_parameters")
    found = found.get(kind, found) if isinstance(found, Mapping) else None
    theta = found.get("rope_theta", default) if isinstance(found, Mapping) else default
    return float(theta)


def _beyond(config: Mapping[str, Any]) -> str | None:
    """What a config asks for that is not computed, as the end of a sentence."""
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"has positions of the type {config['position_embedding_type']!r}"
    ropes = config.get("rope_parameters")
    for rope in [ropes, *ropes.values()] if isinstance(ropes, Mapping) else []:
        if isinstance(rope, Mapping) and rope.get("rope_type", "default") != "default":
            return f"has rotations of the type {rope['rope_type']!r}"
    if config.get("rotary_scaling_factor"):
        return "scales its rotations"
    if config.get("rotary_emb_fraction", 1.0) not in (1.0, 1) or config.get("rotary_emb_interleaved"):
        return "rotates parts of its heads"
    if config.get("prenorm") or config.get("use_rms_norm"):
        return "has norms of another form"
    if config.get("num_experts") or config.get("moe_every_n_layers"):
        return "has experts"
    return None


def _norm_eps(config: Mapping[str, Any]) -> float:
    for name in ("layer_norm_eps", "norm_eps", "layer_norm_epsilon"):
        if isinstance(found := config.get(name), float | int) and 0 <= found < 1:
            return float(found)
    return 1e-5 if config.get("model_type") == "modernbert" else 1e-12


def _size(config: Mapping[str, Any], name: str, where: str) -> int:
    present = next((each for each in _NAMES[name] if each in config), name)
    return _whole(config, present, None, where)


def _whole(config: Mapping[str, Any], name: str, default: int | None, where: str) -> int:
    found = config.get(name, default)
    least = 0 if name == "pad_token_id" else 1
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= _MOST:
        raise CheckpointError(f"{where} has {name} = {str(found)[:40]}, and it must be a whole number of at least {least}; get it again.")
    return found

"""The Llama family of decoders, as one plain description of shapes and switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from llmasos_hookspecs.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from llmasos_hookspecs.checkpoint import Checkpoint

#: ``model_type`` values that ``DecoderConfig`` describes.
LLAMA_FAMILY: Final = ("llama", "mistral", "qwen2", "qwen3")


@attrs.frozen(kw_only=True)
class RopeScaling:
    """Frequency scaling of rotary embeddings.

    ``kind`` is ``linear`` (positions divided by ``factor``) or ``llama3`` (low frequencies divided by ``factor``, high
    ones kept, those between blended; see the Llama 3.1 model card's reference code).
    """

    kind: str = attrs.field(validator=attrs.validators.in_(("linear", "llama3")))
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@attrs.frozen(kw_only=True)
class DecoderConfig:
    """Shapes and switches of a Llama-family decoder; every count is in elements, not bytes.

    ``attention_bias`` says which of q, k and v carry a bias, ``output_bias`` whether ``o_proj`` does. ``sliding_window``
    is in tokens, None where attention is full. ``eos_token_ids`` end a generation.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    activation: str = "silu"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def kv_width(self) -> int:
        """Elements that one token adds to the keys (and as many to the values) of one layer."""
        return self.num_kv_heads * self.head_dim

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint of this decoder holds, in Hugging Face's names; no head where it is tied."""
        hidden, inner, width = self.hidden_size, self.intermediate_size, self.num_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for layer in range(self.num_layers):
            linears = {
                "self_attn.q_proj": (width, hidden, self.attention_bias),
                "self_attn.k_proj": (self.kv_width, hidden, self.attention_bias),
                "self_attn.v_proj": (self.kv_width, hidden, self.attention_bias),
                "self_attn.o_proj": (hidden, width, self.output_bias),
                "mlp.gate_proj": (inner, hidden, self.mlp_bias),
                "mlp.up_proj": (inner, hidden, self.mlp_bias),
                "mlp.down_proj": (hidden, inner, self.mlp_bias),
            }
            at = f"model.layers.{layer}"
            shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
            if self.qk_norm:
                shapes[f"{at}.self_attn.q_norm.weight"] = shapes[f"{at}.self_attn.k_norm.weight"] = (self.head_dim,)
            for name, (rows, columns, bias) in linears.items():
                shapes[f"{at}.{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{at}.{name}.bias"] = (rows,)
        shapes["model.norm.weight"] = (hidden,)
        if not self.tie_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a Hugging Face ``config.json``.

        Raises:
            UnsupportedModel: the architecture, activation or rope scaling is not one that this class describes.
            CheckpointError: a size is missing or impossible.
        """
        kind = config.get("model_type")
        if kind not in LLAMA_FAMILY:
            raise UnsupportedModel(
                f"config.json has model_type {kind!r}, and the Llama family is {', '.join(LLAMA_FAMILY)}; use a loader that "
                "takes this architecture, such as llmasos-backend-torch."
            )
        hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        kv_heads = _size(config, "num_key_value_heads", heads)
        head_dim = _size(config, "head_dim", hidden // heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"config.json has num_attention_heads {heads}, which num_key_value_heads {kv_heads} does not divide; the file is wrong."
            )
        activation = config.get("hidden_act") or "silu"
        if activation not in ("silu", "swish"):
            raise UnsupportedModel(f"config.json has hidden_act {activation!r}, and the Llama family uses 'silu'.")
        theta, scaling = _rope(config)
        bias = bool(config.get("attention_bias", False))
        return cls(
            model_type=kind,
            vocab_size=_size(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_size(config, "intermediate_size"),
            num_layers=_size(config, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            context_length=_size(config, "max_position_embeddings", 2048),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bias or kind == "qwen2",
            output_bias=bias and kind in ("llama", "qwen3"),
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=kind == "qwen3",
            sliding_window=_window(config, kind),
            bos_token_id=config.get("bos_token_id"),
            eos_token_ids=_ids(config.get("eos_token_id")),
        )


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise CheckpointError(f"config.json has {key} = {value!r}, and it must be a whole number above 0; the file is wrong.")
    return value


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, Sequence):
        return tuple(int(i) for i in value)
    return (int(value),)


def _window(config: Mapping[str, Any], kind: str) -> int | None:
    window = config.get("sliding_window")
    if window is None or (kind in ("qwen2", "qwen3") and not config.get("use_sliding_window")):
        return None
    if kind in ("qwen2", "qwen3") and config.get("max_window_layers", 0):
        raise UnsupportedModel(
            "config.json asks for a sliding window in some layers only (max_window_layers), which the Llama-family loaders do not do; "
            "set use_sliding_window to false or use llmasos-backend-torch."
        )
    return int(window)


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    # transformers 5 writes rope_parameters; older files have rope_theta and rope_scaling.
    found: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(found.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise UnsupportedModel(
            f"config.json has rope scaling {kind!r}, and the Llama-family loaders do 'linear' and 'llama3'; use llmasos-backend-torch."
        )
    return theta, RopeScaling(
        kind=kind,
        factor=float(found.get("factor", 1.0)),
        low_freq_factor=float(found.get("low_freq_factor", 1.0)),
        high_freq_factor=float(found.get("high_freq_factor", 4.0)),
        original_max_position=int(found.get("original_max_position_embeddings", 8192)),
    )


def check_tensors(checkpoint: Checkpoint) -> None:
    """Check, from headers alone, that a Llama-family checkpoint holds each tensor of its decoder in the right shape.

    Raises:
        UnsupportedModel: the checkpoint is of another architecture.
        CheckpointError: a tensor is missing, or has another shape than the config asks for; the message names it.
    """
    names = set(checkpoint.names())
    for name, expected in checkpoint.decoder.tensor_shapes().items():
        if name not in names:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}, which its config asks for; fetch the model again.")
        found = tuple(checkpoint.shape(name))
        if found != expected:
            raise CheckpointError(
                f"{checkpoint.path} holds {name} in the shape {found}, and its config asks for {expected}; fetch the model again."
            )

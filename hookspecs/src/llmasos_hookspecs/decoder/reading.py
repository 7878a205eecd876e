"""Reads a ``config.json`` as the fields of a ``DecoderConfig``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_hookspecs.decoder.config import DecoderLayer, TensorNames
from llmasos_hookspecs.decoder.families import DECODER_FAMILIES, Family, Switch
from llmasos_hookspecs.decoder.rope import Rope, RopeScaling
from llmasos_hookspecs.errors import CheckpointError, UnsupportedModel

#: Name of an activation in ``config.json`` -> name in ``DecoderConfig``.
ACTIVATIONS: Final[Mapping[str, str]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}

#: More layers than any decoder has; counts are compared with it before anything is expanded to that many layers.
MAX_LAYERS: Final = 4096

_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``DecoderConfig`` for the contents of a ``config.json``.

    Raises:
        UnsupportedModel: the architecture, or something that the config asks of it, is not one that ``DecoderConfig`` describes.
        CheckpointError: a size is missing, or a value impossible.
    """
    kind = config.get("model_type")
    family = DECODER_FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UnsupportedModel(
            f"config.json has model_type {kind!r}, and the architectures described are {', '.join(DECODER_FAMILIES)}; use a loader that "
            "takes this architecture, such as llmasos-backend-torch."
        )
    return _Reader(config, family).fields()


class _Reader:
    """One config, with the defaults of its architecture behind it."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        self.config = config
        self.family = family
        self.values: Mapping[str, Any] = {**family.defaults, **config}

    def fields(self) -> dict[str, Any]:
        family = self.family
        for key in family.refuses:
            if self.values.get(key) not in (None, False):
                raise UnsupportedModel(f"config.json has {key} = {self.values[key]!r}, which only llmasos-backend-torch computes.")
        hidden, heads, layers = (
            self._size("hidden_size"),
            self._size("num_attention_heads"),
            self._size("num_hidden_layers", most=MAX_LAYERS),
        )
        kv_heads = heads if family.kv_heads is None else self._size(family.kv_heads, heads)
        head_dim = self._head_dim(hidden, heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"config.json has num_attention_heads {heads}, which num_key_value_heads {kv_heads} does not divide; the file is wrong."
            )
        context = self._size("max_position_embeddings", 2048)
        kinds = self._layer_kinds(layers)
        window = self._window()
        each = self._layers(kinds, window, head_dim, context)
        alike = len(set(each)) == 1 and each[0].rope is not None
        first = each[0].rope or Rope(theta=1.0, dim=head_dim)
        parallel = family.parallel_switch is not None and self._on(family.parallel_switch)
        return {
            "model_type": self.config["model_type"],
            "vocab_size": self._size("vocab_size"),
            "hidden_size": hidden,
            "intermediate_size": self._size("intermediate_size"),
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim,
            "context_length": context,
            "norm_eps": 1e-5 if family.eps is None else self._number(family.eps, 1e-6),
            "rope_theta": first.theta,
            "rope_scaling": first.scaling,
            "rotary_dim": None if first.dim == head_dim else first.dim,
            "rope_interleaved": first.interleaved,
            "sliding_window": each[0].window,
            "layers": () if alike else tuple(each),
            "tie_embeddings": bool(self.values.get("tie_word_embeddings", False)),
            "attention_bias": self._on(family.qkv_bias),
            "output_bias": self._on(family.output_bias),
            "mlp_bias": self._on(family.mlp_bias),
            "head_bias": family.head_bias,
            "qk_norm": family.qk_norm,
            "qk_norm_width": family.qk_norm_width,
            "activation": self._activation(),
            "gated": family.gated,
            "norm": family.norm,
            "norm_offset": family.norm_offset,
            "norm_bias": family.norm_bias,
            "norm_weight": family.norm_weight,
            "block": "parallel" if parallel else family.block,
            "names": self._names(parallel),
            "bos_token_id": self._tokens("bos_token_id")[0] if self._tokens("bos_token_id") else None,
            "eos_token_ids": self._tokens("eos_token_id"),
            **self._scales(hidden),
        }

    def _scales(self, hidden: int) -> dict[str, Any]:
        family = self.family
        embedding = 1.0
        if family.embedding_scale == "root_hidden":
            embedding = hidden**0.5
        elif family.embedding_scale != "none":
            embedding = self._number(family.embedding_scale, 1.0)
        attention = None
        if family.attention_scale is not None:
            key, form = family.attention_scale
            value = self._number(key, 1.0)
            attention = value if form == "value" else value**-0.5
        logits = 1.0
        if family.logit_scale is not None:
            key, direction = family.logit_scale
            value = self._number(key, 1.0)
            logits = value if direction == "times" else 1.0 / value
        return {
            "embedding_scale": embedding,
            "residual_scale": 1.0 if family.residual_scale is None else self._number(family.residual_scale, 1.0),
            "attention_scale": attention,
            "attention_softcap": self._cap(family.attention_softcap),
            "logit_scale": logits,
            "logit_softcap": self._cap(family.logit_softcap),
        }

    def _names(self, parallel: bool) -> TensorNames:
        """A parallel StableLM has one norm for both, a parallel GPT-NeoX two."""
        names = self.family.names
        return attrs.evolve(names, mlp_norm=None) if parallel and self.config["model_type"] == "stablelm" else names

    def _head_dim(self, hidden: int, heads: int) -> int:
        return self._size("head_dim" if self.family.takes_head_dim else "", hidden // heads)

    def _activation(self) -> str:
        name = self.values.get(self.family.activation) or "silu"
        found = ACTIVATIONS.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnsupportedModel(
                f"config.json has {self.family.activation} {name!r}, and the activations described are {', '.join(ACTIVATIONS)}; use "
                "llmasos-backend-torch."
            )
        return found

    # -- layers -------------------------------------------------------------------------------------------------------------------------

    def _window(self) -> int | None:
        switch = self.family.window_switch
        if self.family.windows == "none" or (switch is not None and not self.values.get(switch)):
            return None
        return None if self.values.get("sliding_window") is None else self._size("sliding_window")

    def _layer_kinds(self, count: int) -> list[str]:
        given = self.values.get("layer_types")
        if given is not None and self.family.windows != "none" and self.config["model_type"] not in ("mistral", "phi3", "starcoder2"):
            if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < count:
                raise CheckpointError(f"config.json has layer_types that do not name each of its {count} layers; the file is wrong.")
            unknown = sorted({str(kind) for kind in given} - {_FULL, _SLIDING})
            if unknown:
                raise UnsupportedModel(f"config.json has layers of {unknown[0][:40]!r}; use llmasos-backend-torch.")
            return list(given[:count])
        window = self._window()
        return [_SLIDING if window is not None and self._slides(layer) else _FULL for layer in range(count)]

    def _slides(self, layer: int) -> bool:
        """Whether a layer has a window where ``layer_types`` does not say."""
        windows = self.family.windows
        if windows == "from_max_window_layers":
            return bool(layer >= self._count("max_window_layers"))
        if windows == "pattern":
            pattern = self._count(self.family.pattern or "", int(str(self.family.defaults["sliding_window_pattern"])))
            return pattern != 0 and (layer + 1) % pattern != 0
        if windows == "unrotated":
            return not self._rotated_by_list(layer)
        return windows == "all"

    def _rotated_by_list(self, layer: int) -> bool:
        marks = self.values.get("no_rope_layers")
        if marks is None:
            return (layer + 1) % self._size("no_rope_layer_interval") != 0
        if not isinstance(marks, Sequence) or isinstance(marks, str) or layer >= len(marks):
            raise CheckpointError("config.json has no_rope_layers that do not name each of its layers; the file is wrong.")
        return bool(marks[layer])

    def _layers(self, kinds: Sequence[str], window: int | None, head_dim: int, context: int) -> list[DecoderLayer]:
        ropes = {kind: self._rope(kind, head_dim, context) for kind in sorted(set(kinds))}
        found = []
        for index, kind in enumerate(kinds):
            sliding = kind == _SLIDING
            rotated = {
                "all": True,
                "windowed": sliding,
                "windowed_if_any": sliding or window is None,
                "no_rope_layers": self.family.rotates != "no_rope_layers" or self._rotated_by_list(index),
            }[self.family.rotates]
            found.append(DecoderLayer(window=window if sliding else None, rope=ropes[kind] if rotated else None))
        return found

    # -- rope ---------------------------------------------------------------------------------------------------------------------------

    def _rope(self, kind: str, head_dim: int, context: int) -> Rope:
        family = self.family
        # transformers 5 writes rope_parameters; older files have rope_theta and rope_scaling.
        given = self._mapping("rope_parameters")
        by_type = family.ropes_by_type and any(name in given for name in (_FULL, _SLIDING))
        if by_type:
            given = given.get(kind) or {}
        elif family.ropes_by_type:
            given = self._mapping("rope_scaling") if kind == _FULL else {}
        else:
            given = self._mapping("rope_scaling") or given
        theta_key = family.local_theta if kind == _SLIDING and family.local_theta else family.theta
        theta = given.get("rope_theta")
        theta = self._number(theta_key, 10000.0) if theta is None else self._as_number("rope_theta", theta)
        partial = given.get("partial_rotary_factor")
        partial = self._number(family.partial, 1.0) if partial is None else self._as_number("partial_rotary_factor", partial)
        dim = int(head_dim * partial)
        if theta <= 0 or not 0 < dim <= head_dim or dim % 2:
            raise CheckpointError(
                f"config.json rotates {dim} of {head_dim} elements of a head with the base {theta:g}, which cannot be; the file is wrong."
            )
        return Rope(theta=theta, dim=dim, interleaved=family.interleaved, scaling=self._scaling(given, dim, context))

    def _scaling(self, given: Mapping[str, Any], dim: int, context: int) -> RopeScaling | None:
        kind = given.get("rope_type") or given.get("type") or "default"
        if self.config["model_type"] == "phi3" and kind in ("su", "yarn"):
            kind = "longrope"
        # Dynamic scaling begins where the context ends, and no sequence is longer than that.
        if kind in ("default", "dynamic"):
            return None
        if kind not in ("linear", "llama3", "yarn", "longrope"):
            raise UnsupportedModel(
                f"config.json has rope scaling {str(kind)[:40]!r}, and linear, llama3, yarn, longrope and dynamic are described; use "
                "llmasos-backend-torch."
            )
        original = self._original_positions(given, context)
        factor = given.get("factor")
        factor = context / original if factor is None and kind in ("yarn", "longrope") else self._as_number("factor", factor or 1.0)
        if factor <= 0:
            raise CheckpointError(f"config.json has the rope scaling factor {factor:g}, which cannot be; the file is wrong.")
        if kind == "linear":
            return RopeScaling(kind=kind, factor=factor)
        if kind == "llama3":
            return RopeScaling(
                kind=kind,
                factor=factor,
                low_freq_factor=self._as_number("low_freq_factor", given.get("low_freq_factor", 1.0)),
                high_freq_factor=self._as_number("high_freq_factor", given.get("high_freq_factor", 4.0)),
                original_max_position=original,
            )
        if kind == "yarn":
            return RopeScaling(
                kind=kind,
                factor=factor,
                original_max_position=original,
                beta_fast=self._as_number("beta_fast", given.get("beta_fast") or 32.0),
                beta_slow=self._as_number("beta_slow", given.get("beta_slow") or 1.0),
                truncate=bool(given.get("truncate", True)),
                attention_factor=self._attention_factor(given, _yarn_attention(given, factor)),
            )
        long = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        return RopeScaling(
            kind=kind,
            factor=factor,
            original_max_position=original,
            attention_factor=self._attention_factor(given, long),
            short_factor=self._divisors(given, "short_factor", dim),
            long_factor=self._divisors(given, "long_factor", dim),
        )

    def _original_positions(self, given: Mapping[str, Any], context: int) -> int:
        """Tokens of the context that the model was first trained for; beside the scaling it speaks before what is in it."""
        key = "original_max_position_embeddings"
        value = self.values.get(key)
        value = given.get(key) if value is None else value
        value = context if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 2**31:
            raise CheckpointError(f"config.json has {key} = {value!r}, and it must be a whole number above 0; the file is wrong.")
        return int(value)

    def _attention_factor(self, given: Mapping[str, Any], default: float) -> float:
        value = given.get("attention_factor")
        return default if value is None else self._as_number("attention_factor", value)

    def _divisors(self, given: Mapping[str, Any], key: str, dim: int) -> tuple[float, ...]:
        value = given.get(key)
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != dim // 2:
            raise CheckpointError(f"config.json has a {key} that does not hold {dim // 2} numbers, one a frequency; the file is wrong.")
        found = tuple(self._as_number(key, number) for number in value)
        if min(found) <= 0:
            raise CheckpointError(f"config.json has {min(found):g} in {key}, and a divisor must be above 0; the file is wrong.")
        return found

    # -- values -------------------------------------------------------------------------------------------------------------------------

    def _on(self, switch: Switch) -> bool:
        return switch if isinstance(switch, bool) else bool(self.values.get(switch, False))

    def _mapping(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise CheckpointError(f"config.json has a {key} that is no table; the file is wrong.")
        return value

    def _size(self, key: str, default: int | None = None, *, most: int = 2**31 - 1) -> int:
        value = self.values.get(key)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            bound = "" if most == 2**31 - 1 else f" and at most {most}"
            raise CheckpointError(f"config.json has {key} = {value!r}, and it must be a whole number above 0{bound}; the file is wrong.")
        return value

    def _count(self, key: str, default: int = 0) -> int:
        """A whole number that may be 0."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise CheckpointError(f"config.json has {key} = {value!r}, and it must be a whole number; the file is wrong.")
        return value

    def _number(self, key: str, default: float) -> float:
        value = self.values.get(key)
        return default if value is None else self._as_number(key, value)

    @staticmethod
    def _as_number(key: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(f"config.json has {key} = {value!r}, and it must be a number; the file is wrong.")
        return float(value)

    def _cap(self, key: str | None) -> float | None:
        return None if key is None or self.values.get(key) is None else self._number(key, 0.0)

    def _tokens(self, key: str) -> tuple[int, ...]:
        value = self.config.get(key)
        listed: list[Any] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
        for token in listed:
            if not isinstance(token, int) or isinstance(token, bool) or token >= 2**31:
                raise CheckpointError(f"config.json has {key} = {value!r}, and a token is a whole number; the file is wrong.")
        return tuple(token for token in listed if token >= 0)


def _yarn_attention(given: Mapping[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    numerator, denominator = given.get("mscale"), given.get("mscale_all_dim")
    if numerator and denominator:
        return scale(_Reader._as_number("mscale", numerator)) / scale(_Reader._as_number("mscale_all_dim", denominator))
    return scale(1.0)

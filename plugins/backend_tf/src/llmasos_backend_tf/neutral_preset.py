"""A KerasHub backbone of the Llama family in the neutral form, for the decoder with a KV cache."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_tf.framework import first_line
from llmasos_hookspecs import Checkpoint, CheckpointError, DecoderConfig, Tokenizer, UnsupportedModel

#: KerasHub backbone -> the ``model_type`` of the same architecture.
FAMILY: Final[Mapping[str, str]] = {
    "LlamaBackbone": "llama",
    "Llama3Backbone": "llama",
    "MistralBackbone": "mistral",
    "QwenBackbone": "qwen2",
    "Qwen2Backbone": "qwen2",
    "Qwen3Backbone": "qwen3",
}

_LAYER_NAMES: Final[Mapping[str, str]] = {
    "self_attention/query": "self_attn.q_proj",
    "self_attention/key": "self_attn.k_proj",
    "self_attention/value": "self_attn.v_proj",
    "self_attention/attention_output": "self_attn.o_proj",
    "self_attention/query_dense_layernorm": "self_attn.q_norm",
    "self_attention/key_dense_layernorm": "self_attn.k_norm",
    "self_attention_layernorm": "input_layernorm",
    "feedforward_layernorm": "post_attention_layernorm",
    "feedforward_gate_dense": "mlp.gate_proj",
    "feedforward_intermediate_dense": "mlp.up_proj",
    "feedforward_output_dense": "mlp.down_proj",
}


class PresetCheckpoint:
    """A KerasHub backbone of the Llama family as a neutral checkpoint."""

    format = "huggingface"
    manifest: Mapping[str, Any] = {}

    def __init__(self, backbone: Any, origin: Checkpoint, context_length: int) -> None:
        self._origin = origin
        self.path = origin.path
        try:
            self.config = _neutral_config(backbone, context_length)
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.path} holds a setting of another type than a {type(backbone).__name__} has ({first_line(error)}); fetch it again."
            ) from error
        self._weights = {_neutral_name(weight.path): weight for weight in backbone.weights}
        if any(name.endswith("_proj.bias") for name in self._weights) and self.config["model_type"] != "qwen2":
            self.config["attention_bias"] = True

    @property
    def digest(self) -> str:
        return self._origin.digest

    @cached_property
    def decoder(self) -> DecoderConfig:
        return DecoderConfig.from_dict(self.config)

    def names(self) -> Sequence[str]:
        return tuple(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensor(name).shape)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        try:
            array = self._weights[name].numpy().astype(np.float32)
        except KeyError:
            raise CheckpointError(f"{self.path} has no weight for {name}.") from None
        if name == "model.embed_tokens.weight":
            return array
        if name.endswith("o_proj.weight"):
            return array.reshape(-1, array.shape[-1]).T
        if name.endswith(".bias"):
            return array.reshape(-1)
        return array.reshape(array.shape[0], -1).T if array.ndim > 1 else array

    @property
    def chat_template(self) -> str | None:
        return self._origin.chat_template

    def text_files(self) -> Mapping[str, bytes]:
        return self._origin.text_files()

    def tokenizer(self) -> Tokenizer:
        return self._origin.tokenizer()


def _neutral_name(path: str) -> str:
    """``transformer_layer_3/self_attention/query/kernel`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    outer = {
        "token_embedding/embeddings": "model.embed_tokens.weight",
        "token_embedding/reverse_embeddings": "lm_head.weight",
        "sequence_output_layernorm/scale": "model.norm.weight",
    }
    if path in outer:
        return outer[path]
    found = re.fullmatch(r"transformer_layer_(\d+)/(.+)/(kernel|bias|scale)", path)
    if found is None or found[2] not in _LAYER_NAMES:
        raise UnsupportedModel(f"The preset has a weight {path}, which no Llama-family decoder has; use another version of it.")
    return f"model.layers.{found[1]}.{_LAYER_NAMES[found[2]]}.{'bias' if found[3] == 'bias' else 'weight'}"


def _neutral_config(backbone: Any, context_length: int) -> dict[str, Any]:
    given = backbone.get_config()
    kind = FAMILY[type(backbone).__name__]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(given["rope_max_wavelength"])}
    factor = given.get("rope_position_scaling_factor", given.get("rope_scaling_factor", 1.0)) or 1.0
    if given.get("rope_frequency_adjustment_factor"):
        rope |= {
            "rope_type": "llama3",
            "factor": given["rope_frequency_adjustment_factor"],
            "low_freq_factor": given["rope_low_freq_factor"],
            "high_freq_factor": given["rope_high_freq_factor"],
            "original_max_position_embeddings": given["rope_pretraining_sequence_length"],
        }
    elif factor != 1.0 and _divides_positions(backbone, factor):
        rope |= {"rope_type": "linear", "factor": factor}
    config: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": given["vocabulary_size"],
        "hidden_size": given["hidden_dim"],
        "intermediate_size": given["intermediate_dim"],
        "num_hidden_layers": given["num_layers"],
        "num_attention_heads": given["num_query_heads"],
        "num_key_value_heads": given["num_key_value_heads"],
        "max_position_embeddings": context_length,
        "rms_norm_eps": given["layer_norm_epsilon"],
        "rope_parameters": rope,
        "tie_word_embeddings": not any(weight.path.endswith("reverse_embeddings") for weight in backbone.weights),
    }
    if given.get("head_dim"):
        config["head_dim"] = given["head_dim"]
    if kind == "mistral":
        config["sliding_window"] = given.get("sliding_window")
    elif given.get("use_sliding_window_attention"):
        config |= {"use_sliding_window": True, "sliding_window": given["sliding_window_size"], "max_window_layers": 0}
    return config


def _divides_positions(backbone: Any, factor: float) -> bool:
    """Whether the preset's own rotary layer divides positions by the factor that its config gives.

    KerasHub's Llama took the factor up to 0.2x and ignores it since, so the layer is asked: at position 1 its first pair of channels
    turns by 1 / factor, or by 1.
    """
    import keras_hub
    import tensorflow as tf

    layer = next(each for each in backbone._flatten_layers() if isinstance(each, keras_hub.layers.RotaryEmbedding))
    pair = np.float32([1, 0]).reshape(1, 1, 1, 2)
    cosine, sine = np.asarray(tf.convert_to_tensor(layer(pair, start_index=1)), np.float32).ravel()
    turn = math.atan2(float(sine), float(cosine))
    if math.isclose(turn, 1.0, rel_tol=1e-3):
        return False
    if math.isclose(turn, 1.0 / factor, rel_tol=1e-3):
        return True
    raise UnsupportedModel(f"The preset's rotary layer turns by {turn:.4g} a position for the factor {factor:g}; use another KerasHub.")

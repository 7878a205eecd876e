"""KerasHub preset folders and ``.keras`` files, read in Keras's safe mode.

A preset of the Llama family is turned into the neutral form and runs on the decoder with its KV cache; any other causal model is called
as it is, without one.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_tf.framework import import_keras_hub
from llmasos_backend_tf.options import Options
from llmasos_backend_tf.recompute import Model
from llmasos_hookspecs import Checkpoint, CheckpointError, DecoderConfig, Engine, EngineLimits, Tokenizer, UnsupportedModel

#: Context of a model whose files do not say it.
_DEFAULT_CONTEXT: Final = 4096

#: KerasHub backbone -> the ``model_type`` of the same architecture.
_FAMILY: Final[Mapping[str, str]] = {
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


def load_keras(checkpoint: Checkpoint, options: Options, limits: EngineLimits, notes: list[str]) -> Engine:
    """The engine for a preset folder or a ``.keras`` file.

    Raises:
        CheckpointError: a file is damaged, or holds a Lambda layer, whose code Keras would run.
        UnsupportedModel: the model does not take token ids and give logits.
    """
    path = checkpoint.path
    files = [path] if path.is_file() else sorted(path.glob("*.keras"))
    if files and not (path / "model.weights.h5").is_file():
        return _load_file(files[0], limits, notes)
    config = _read_json(path / "config.json")
    _refuse_lambdas(config, path / "config.json")
    hub = import_keras_hub()
    if config.get("class_name") in _FAMILY:
        from llmasos_backend_tf.loading import load_decoder

        backbone = _load(path, lambda: hub.models.Backbone.from_preset(str(path.resolve()), dtype="float32"))
        preset = PresetCheckpoint(backbone, checkpoint, limits.context_length or _DEFAULT_CONTEXT)
        if limits.context_length is None:
            notes = [*notes, f"A KerasHub preset does not say how long a context it takes; {_DEFAULT_CONTEXT} tokens are allowed."]
        return load_decoder(preset, options, limits, notes)
    for name in ("task.json", "preprocessor.json"):
        if (path / name).is_file():
            _refuse_lambdas(_read_json(path / name), path / name)
    model = _load(path, lambda: hub.models.CausalLM.from_preset(str(path.resolve()), preprocessor=None, dtype="float32"))
    return _whole_model(path, model, limits, notes)


class PresetCheckpoint:
    """A KerasHub backbone of the Llama family as a neutral checkpoint."""

    format = "huggingface"
    manifest: Mapping[str, Any] = {}

    def __init__(self, backbone: Any, origin: Checkpoint, context_length: int) -> None:
        self._origin = origin
        self.path = origin.path
        self.config = _neutral_config(backbone, context_length)
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
    kind = _FAMILY[type(backbone).__name__]
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
    elif factor != 1.0:
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


def _load_file(path: Path, limits: EngineLimits, notes: list[str]) -> Engine:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no whole .keras file ({error}); save the model again.") from error
    _refuse_lambdas(config, path)
    import_keras_hub()  # registers its layers
    import keras

    model = _load(path, lambda: keras.saving.load_model(str(path), compile=False, safe_mode=True))
    return _whole_model(path, model, limits, notes)


def _whole_model(path: Path, model: Any, limits: EngineLimits, notes: list[str]) -> Engine:
    """An engine that calls a Keras model on whole sequences."""
    import tensorflow as tf

    names = _input_names(model)
    tokens = next((name for name in ("token_ids", "input_ids", "tokens") if name in names), names[0] if len(names) == 1 else None)
    mask = next((name for name in ("padding_mask", "attention_mask") if name in names), None)
    shape = tuple(getattr(model, "output_shape", None) or ())
    if tokens is None or len(names) > 1 + (mask is not None) or len(shape) != 3 or not shape[-1]:
        raise UnsupportedModel(
            f"{path} takes {', '.join(names) or 'nothing'} and gives {shape or 'nothing'}, and the loader tf needs token ids [batch, "
            "tokens], a padding mask at most beside them, that become logits [batch, tokens, vocabulary]."
        )

    @tf.function(reduce_retracing=True)
    def call(ids: Any, seen: Any) -> Any:
        given = {tokens: ids} if mask is None else {tokens: ids, mask: seen}
        if isinstance(model.input, dict):
            return model(given)
        return model([given[name] for name in names]) if len(names) > 1 else model(ids)

    whole = Model(
        logits=lambda ids, seen: call(tf.constant(ids), tf.constant(seen)).numpy(),
        vocab_size=int(shape[-1]),
        weight_bytes=sum(int(np.prod(weight.shape)) * 4 for weight in model.weights),
        length=shape[1],
    )
    return whole.engine(limits, notes, _DEFAULT_CONTEXT)


def _input_names(model: Any) -> list[str]:
    given = model.input
    if isinstance(given, dict):
        return list(given)
    return [tensor.name for tensor in (given if isinstance(given, list | tuple) else [given])]


def _load(path: Path, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # Keras raises many kinds for damaged and unsafe files
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} cannot be loaded by Keras in safe mode ({line}); save it again with this version.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); fetch the preset again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no Keras configuration; fetch the preset again.")
    return found


def _refuse_lambdas(config: Any, path: Path) -> None:
    """Keras's safe mode refuses these too; looking first keeps that independent of what a user has set for the process."""
    todo = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, Mapping):
            if item.get("class_name") in ("Lambda", "__lambda__"):
                raise CheckpointError(
                    f"{path} holds a Lambda layer, whose code would run when it is loaded; replace it by a layer without code."
                )
            todo += item.values()
        elif isinstance(item, list):
            todo += item

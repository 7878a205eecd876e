"""Keras models that are called as they are: ``.keras`` files, and presets without a form of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmasos_backend_tf.framework import first_line, import_keras_hub
from llmasos_backend_tf.keras_inspection import INSPECTION, check_archive
from llmasos_backend_tf.recompute import Model
from llmasos_backend_tf.trials import load_model
from llmasos_hookspecs import CheckpointError, Context, Engine, EngineLimits, UnsupportedModel, inspect_once

#: Context of a model whose files do not say it.
DEFAULT_CONTEXT: Final = 4096
_INSPECT: Final = "llmasos_backend_tf.keras_inspection:inspect_archive"


def load_file(path: Path, context: Context, notes: list[str]) -> Engine:
    """The engine of a ``.keras`` file. Raises as ``load_keras``."""
    inspect_once(context, _INSPECT, [path], version=INSPECTION)
    check_archive(path)
    import_keras_hub()  # registers its layers
    import keras

    model = load_by_keras(path, lambda: keras.saving.load_model(str(path), compile=False, safe_mode=True))
    return whole_model(path, model, context.limits, notes)


def whole_model(path: Path, model: Any, limits: EngineLimits, notes: list[str]) -> Engine:
    """An engine that calls a Keras model on whole sequences.

    Raises:
        UnsupportedModel: it takes or gives something else, or fails the trials.
    """
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
    taken = _inputs(model)[names.index(tokens)].shape
    rows, length = taken if len(taken) == 2 else (None, None)
    spec = tf.TensorSpec((rows, length), tf.int32)

    @tf.function(input_signature=[spec, spec])
    def call(ids: Any, seen: Any) -> Any:
        given = {tokens: ids} if mask is None else {tokens: ids, mask: seen}
        if isinstance(model.input, dict):
            return model(given)
        return model([given[name] for name in names]) if len(names) > 1 else model(ids)

    stated = getattr(getattr(model, "backbone", None), "max_sequence_length", None)
    whole = Model(
        path=path,
        call=lambda ids, seen, positions: call(tf.constant(ids), tf.constant(seen)).numpy(),  # noqa: ARG005 - Keras counts them itself
        weight_bytes=sum(int(np.prod(weight.shape)) * tf.dtypes.as_dtype(weight.dtype).size for weight in model.weights),
        rows=rows,
        length=length,
        context_length=stated if isinstance(stated, int) and stated > 0 else None,
        rounded=any(weight.dtype not in ("float32", "float64") for weight in model.weights),
    )
    return load_model(whole, limits, notes, DEFAULT_CONTEXT)


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a preset's weights are stored in codes."""
    settings = config.get("config")
    dtype = settings.get("dtype") if isinstance(settings, Mapping) else None
    return isinstance(dtype, Mapping) and dtype.get("class_name") not in ("DTypePolicy", "FloatDTypePolicy")


def load_by_keras(path: Path, make: Callable[[], Any]) -> Any:
    """What Keras makes. Raises ``CheckpointError`` with one sentence of what it says where it fails."""
    try:
        return make()
    except Exception as error:  # Keras raises many kinds for damaged and unsafe files
        raise CheckpointError(
            f"{path} cannot be loaded by Keras in safe mode ({first_line(error)}); save it again with this version."
        ) from error


def _inputs(model: Any) -> list[Any]:
    given = model.input
    if isinstance(given, dict):
        return list(given.values())
    return list(given) if isinstance(given, list | tuple) else [given]


def _input_names(model: Any) -> list[str]:
    return list(model.input) if isinstance(model.input, dict) else [tensor.name for tensor in _inputs(model)]

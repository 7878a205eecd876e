"""KerasHub preset folders, read in Keras's safe mode.

A preset of the Llama family is turned into the neutral form and runs on the decoder with its KV cache; any other causal model is called
as it is, without one.
"""

from __future__ import annotations

from typing import Final

from llmasos_backend_tf.framework import import_keras_hub
from llmasos_backend_tf.keras_inspection import INSPECTION, PRESET_FILES, check_preset
from llmasos_backend_tf.keras_model import DEFAULT_CONTEXT, is_quantized, load_by_keras, load_file, whole_model
from llmasos_backend_tf.links import check_links
from llmasos_backend_tf.neutral_preset import FAMILY, PresetCheckpoint
from llmasos_backend_tf.options import Options
from llmasos_hookspecs import Checkpoint, Context, Engine, inspect_once

_INSPECT: Final = "llmasos_backend_tf.keras_inspection:inspect_preset"


def load_keras(checkpoint: Checkpoint, options: Options, context: Context, notes: list[str]) -> Engine:
    """The engine for a preset folder or a ``.keras`` file.

    Raises:
        CheckpointError: a file is damaged, larger than it should be, leads elsewhere, holds an object that no decoder is made of, or
            weights that are not finite.
        UnsupportedModel: the model does not take token ids and give logits.
    """
    path, limits = checkpoint.path, context.limits
    files = [path] if path.is_file() else sorted(path.glob("*.keras"))
    if files and not any((path / name).is_file() for name in ("model.weights.h5", "model.weights.json")):
        return load_file(files[0], context, notes)
    check_links(path, sorted(path.glob("*")))
    read = [path / name for name in PRESET_FILES if (path / name).is_file()]
    inspect_once(context, _INSPECT, [path / "config.json", *read, *sorted(path.glob("*.h5"))], version=INSPECTION)
    config = check_preset(path)
    hub = import_keras_hub()
    # What is stored in codes is computed from codes; a type of ours would be taken for another layout.
    coded = is_quantized(config)
    dtype = {} if coded else {"dtype": "float32"}
    if config.get("class_name") in FAMILY and not coded:
        from llmasos_backend_tf.loading import load_decoder

        backbone = load_by_keras(path, lambda: hub.models.Backbone.from_preset(str(path.resolve()), **dtype))
        preset = PresetCheckpoint(backbone, checkpoint, limits.context_length or DEFAULT_CONTEXT)
        if limits.context_length is None:
            notes = [*notes, f"A KerasHub preset does not say how long a context it takes; {DEFAULT_CONTEXT} tokens are allowed."]
        return load_decoder(preset, options, limits, notes)
    model = load_by_keras(path, lambda: hub.models.CausalLM.from_preset(str(path.resolve()), preprocessor=None, **dtype))
    return whole_model(path, model, limits, notes)

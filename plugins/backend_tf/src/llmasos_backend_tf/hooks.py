"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_backend_tf.options import Options
from llmasos_hookspecs import Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Engine, MemoryEstimate


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="TensorFlow: Llama-family checkpoints, KerasHub presets and SavedModels.",
        options=Options,
        frameworks={"tensorflow": "tensorflow-cpu"},
        examples=('model = llmasos.load_model("smollm2", loader="tf")', "llmasos run smollm2 'Hello' --set loader.use=tf"),
        formats=("huggingface", "gguf", "keras", "saved_model"),
        architectures=("llama", "mistral", "qwen2", "qwen3"),
        preference=30,
    )


@hookimpl
def llmasos_load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    from llmasos_backend_tf.loading import load

    return load(checkpoint, options, context)


@hookimpl
def llmasos_predict(checkpoint: Checkpoint, options: Options, context: Context) -> MemoryEstimate | None:
    from llmasos_backend_tf.memory import predict

    return predict(checkpoint, options)

"""The hooks of this plugin."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Final

from llmasos_backend_tf.options import Options
from llmasos_backend_tf.traits import takes
from llmasos_hookspecs import DECODER_FAMILIES, NEUTRAL_FORMATS, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Engine, MemoryEstimate

#: What brings TensorFlow: its build for CPUs alone has no wheels for ARM. pyproject.toml says the same.
TENSORFLOW: Final = "tensorflow-cpu" if platform.machine() in ("x86_64", "AMD64") else "tensorflow"


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="TensorFlow: decoders of the Llama family and its relatives, KerasHub presets and SavedModels.",
        options=Options,
        frameworks={"tensorflow": TENSORFLOW},
        examples=('model = llmasos.load_model("smollm2", loader="tf")', 'llmasos run -m smollm2 "Hello" --set loader.use=tf'),
        formats=(*NEUTRAL_FORMATS, "keras", "saved_model"),
        architectures=tuple(DECODER_FAMILIES),
        takes=takes,
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

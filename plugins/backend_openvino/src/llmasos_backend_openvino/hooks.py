"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_backend_openvino.options import Options
from llmasos_backend_openvino.traits import EXPORT, takes
from llmasos_hookspecs import DECODER_FAMILIES, NEUTRAL_FORMATS, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Engine, MemoryEstimate


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="OpenVINO: decoders of the Llama family and its relatives, and exported ones, on CPUs and Intel GPUs.",
        options=Options,
        frameworks={"openvino": "openvino"},
        examples=('model = llmasos.load_model("smollm2", loader="openvino")', 'llmasos run -m smollm2 "Hello" --set loader.use=openvino'),
        formats=(*NEUTRAL_FORMATS, EXPORT),
        architectures=tuple(DECODER_FAMILIES),
        takes=takes,
        preference=40,
    )


@hookimpl
def llmasos_load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    from llmasos_backend_openvino.loading import load

    return load(checkpoint, options, context)


@hookimpl
def llmasos_predict(checkpoint: Checkpoint, options: Options, context: Context) -> MemoryEstimate | None:
    from llmasos_backend_openvino.memory import predict

    return predict(checkpoint, options)

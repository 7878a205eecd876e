"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.traits import takes
from llmasos_encoder_kit.names import FAMILIES
from llmasos_hookspecs import DECODER_FAMILIES, NEUTRAL_FORMATS, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Encoder, Engine, MemoryEstimate


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="ONNX Runtime: builds a decoder or an encoder from a checkpoint, the fastest on CPUs; runs exported ones.",
        options=Options,
        frameworks={"onnxruntime": "onnxruntime", "onnx": "onnx"},
        examples=('model = llmasos.load_model("smollm2", loader="onnx")', "llmasos run 'Hello' --model smollm2 --set loader.use=onnx"),
        formats=(*NEUTRAL_FORMATS, "onnx", "onnx_genai"),
        architectures=(*DECODER_FAMILIES, *FAMILIES),
        takes=takes,
        preference=100,
    )


@hookimpl
def llmasos_load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine | Encoder:
    from llmasos_backend_onnx.loading import load

    return load(checkpoint, options, context)


@hookimpl
def llmasos_predict(checkpoint: Checkpoint, options: Options, context: Context) -> MemoryEstimate | None:
    from llmasos_backend_onnx.memory import predict

    return predict(checkpoint, options, context.limits)

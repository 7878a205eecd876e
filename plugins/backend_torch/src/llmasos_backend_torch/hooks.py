"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_backend_torch.architectures import refusal
from llmasos_backend_torch.options import Options
from llmasos_encoder_kit.choice import is_encoder
from llmasos_hookspecs import NEUTRAL_FORMATS, Component, hookimpl

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Encoder, Engine, MemoryEstimate


def takes(checkpoint: Checkpoint) -> str | None:
    """``Component.takes``: an exported program brings its own decoder, and is tried at load, as any encoder of transformers is."""
    if checkpoint.format not in NEUTRAL_FORMATS or is_encoder(checkpoint):
        return None
    return refusal(checkpoint.config)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="PyTorch: any decoder or encoder of transformers, encoder-decoders such as T5, and models that see, on CPU or GPU.",
        options=Options,
        frameworks={"torch": "torch", "transformers": "transformers"},
        examples=('model = llmasos.load_model("smollm2", loader="torch")', "llmasos run 'Hello' --model smollm2 --set loader.use=torch"),
        formats=(*NEUTRAL_FORMATS, "torch_export"),
        architectures=("*",),
        preference=50,
        takes=takes,
        adapters=True,
    )


@hookimpl
def llmasos_load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine | Encoder:
    try:
        from llmasos_backend_torch.loading import load
    except ModuleNotFoundError as error:
        from llmasos_hookspecs import PluginError

        missing = error.name or "torch"
        raise PluginError(f"The torch loader needs {missing}, which is not installed; install it with: pip install {missing}") from error
    return load(checkpoint, options, context)


@hookimpl
def llmasos_predict(checkpoint: Checkpoint, options: Options, context: Context) -> MemoryEstimate | None:
    from llmasos_backend_torch.memory import predict

    return predict(checkpoint, options, context.limits, adapted=bool(context.adapters))

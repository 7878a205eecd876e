"""LLMasOS format ``quantized``: Hugging Face folders whose weights GPTQ, AWQ, compressed-tensors or an fp8 tool quantised."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs import Checkpoint, Component, Context, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Weights quantised by GPTQ, AWQ, compressed-tensors or fp8 tools, read exactly.", files=("config.json",))


@hookimpl
def llmasos_open(path: Path, context: Context) -> Checkpoint | None:
    from llmasos_format_quantized.forms import FORMS
    from llmasos_huggingface_folder.checkpoint import HuggingFaceCheckpoint, has_safetensors
    from llmasos_huggingface_folder.forms import calls_quantized
    from llmasos_huggingface_folder.quantization import UnreadQuantization

    if not has_safetensors(path) or not calls_quantized(path):
        return None
    try:
        return HuggingFaceCheckpoint(path, context, FORMS)
    except UnreadQuantization:
        return None

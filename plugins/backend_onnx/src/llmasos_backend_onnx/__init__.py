"""LLMasOS loader ``onnx``: a checkpoint as an ONNX decoder, and exported decoders, run by ONNX Runtime."""

from llmasos_backend_onnx.hooks import llmasos_component, llmasos_load, llmasos_predict
from llmasos_backend_onnx.options import Options

__all__ = ["Options", "llmasos_component", "llmasos_load", "llmasos_predict"]

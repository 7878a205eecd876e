"""LLMasOS loader ``openvino``: decoders of named tensors, run by OpenVINO with PagedAttention."""

from llmasos_backend_openvino.hooks import llmasos_component, llmasos_load, llmasos_predict
from llmasos_backend_openvino.options import Options

__all__ = ["Options", "llmasos_component", "llmasos_load", "llmasos_predict"]

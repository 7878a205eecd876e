"""LLMasOS loader ``torch``: decoder-only models of transformers, GGUF files and exported programs, run by PyTorch."""

from llmasos_backend_torch.hooks import llmasos_component, llmasos_load, llmasos_predict
from llmasos_backend_torch.options import Options

__all__ = ["Options", "llmasos_component", "llmasos_load", "llmasos_predict"]

"""Decoders exported by ``torch.export``."""

from llmasos_backend_torch.exported.loading import load_exported

__all__ = ["load_exported"]

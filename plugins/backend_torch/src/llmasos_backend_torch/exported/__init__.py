"""Decoders exported by ``torch.export``."""

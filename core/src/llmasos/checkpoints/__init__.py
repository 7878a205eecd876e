"""Checkpoints that core reads itself: Hugging Face folders, and the exports of other tools, which loaders read."""

from llmasos.checkpoints.opening import read_checkpoint, storage_notes

__all__ = ["read_checkpoint", "storage_notes"]

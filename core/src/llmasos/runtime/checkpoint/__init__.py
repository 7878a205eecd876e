"""Checkpoints: reading every format into one neutral form, and writing it."""

from llmasos.runtime.checkpoint.opening import open_checkpoint

__all__ = ["open_checkpoint"]

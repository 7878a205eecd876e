"""Checkpoints: reading every format into one neutral form, and writing it."""

from llmasos.runtime.checkpoint.digest import file_digest, remember_digest
from llmasos.runtime.checkpoint.opening import open_checkpoint, storage_notes
from llmasos.runtime.checkpoint.writer import CheckpointFolderWriter

__all__ = ["CheckpointFolderWriter", "file_digest", "open_checkpoint", "remember_digest", "storage_notes"]

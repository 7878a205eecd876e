"""Checkpoints: reading every format into one neutral form, and writing it."""

from llmasos.checkpoints.digest import file_digest, remember_digest
from llmasos.checkpoints.opening import open_checkpoint, storage_notes
from llmasos.checkpoints.writer import CheckpointFolderWriter

__all__ = ["CheckpointFolderWriter", "file_digest", "open_checkpoint", "remember_digest", "storage_notes"]

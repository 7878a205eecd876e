"""What reading a checkpoint takes of the context of the hook that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from llmasos_hookspecs import Tokenizer


class ReadingContext(Protocol):
    """The part of a ``Context`` that a reader keeps as long as its checkpoint is used."""

    def file_digest(self, path: Path) -> str:
        """SHA-256 of a file. Raises ``OSError``."""
        ...

    def tokenizer(self, folder: Path) -> Tokenizer:
        """The tokenizer that the files in ``folder`` describe. Raises ``CheckpointError`` or ``UnsupportedModel``."""
        ...

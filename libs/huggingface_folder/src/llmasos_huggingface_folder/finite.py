"""Checks checkpoints for NaN and infinity."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs import Checkpoint, CheckpointError, Tensor, is_finite


class NotFinite(CheckpointError):
    """A tensor holds NaN or infinity. ``tensor`` is its name."""

    def __init__(self, message: str, tensor: str) -> None:
        super().__init__(message)
        self.tensor = tensor


class FiniteTensors:
    """Checks each tensor of one checkpoint when it is first read.

    The check is here and not in the loaders, because quantisation turns NaN into some code, after which it cannot be found any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()

    def checked(self, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor unchanged. Raises ``NotFinite`` where it holds NaN or infinity."""
        if name not in self._seen:
            if not is_finite(tensor):
                raise NotFinite(f"{self._path} holds NaN or infinity in {name}; the checkpoint is damaged, get it again.", name)
            self._seen.add(name)
        return tensor


def check_all(checkpoint: Checkpoint) -> None:
    """Read every tensor of a checkpoint once. Raises ``CheckpointError`` where one holds NaN or infinity, or cannot be read."""
    for name in checkpoint.names():
        checkpoint.tensor(name)

"""SHA-256 of a checkpoint's files and folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmasos.system import digests
from llmasos.system.digests import remember_digest as remember_digest
from llmasos_checkpoint_kit.digests import combined_digest as digests_of
from llmasos_hookspecs import CheckpointError


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; of an unchanged one as it was found before.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return digests.file_digest(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the file and its permissions.") from error


def combined_digest(folder: Path, names: Iterable[str]) -> str:
    """``llmasos_checkpoint_kit.digests.combined_digest`` of files whose digests are remembered."""
    return digests_of(folder, names, file_digest)

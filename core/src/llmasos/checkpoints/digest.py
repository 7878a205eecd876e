"""SHA-256 of a checkpoint's files and folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from llmasos.system import digests
from llmasos.system.digests import remember_digest as remember_digest
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
    """One SHA-256 of several files of a folder: of their names and digests, in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(set(names)):
        whole.update(f"{name}\0{file_digest(folder / name)}\n".encode())
    return whole.hexdigest()

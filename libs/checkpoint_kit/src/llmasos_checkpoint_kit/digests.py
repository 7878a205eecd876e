"""SHA-256 of the files of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from llmasos_hookspecs import CheckpointError


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read anew; ``Context.file_digest`` is one that remembers.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return digest_by(_read, path)


def digest_by(digest_of: Callable[[Path], str], path: Path) -> str:
    """``digest_of(path)``, such as ``Context.file_digest``, whose ``OSError`` becomes a ``CheckpointError``."""
    try:
        return digest_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the file and its permissions.") from error


def combined_digest(folder: Path, names: Iterable[str], digest_of: Callable[[Path], str] = file_digest) -> str:
    """One SHA-256 of several files of a folder: of their names and digests, in the order of the names.

    Raises:
        CheckpointError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for name in sorted(set(names)):
        whole.update(f"{name}\0{digest_by(digest_of, folder / name)}\n".encode())
    return whole.hexdigest()


def _read(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

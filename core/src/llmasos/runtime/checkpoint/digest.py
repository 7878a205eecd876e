"""SHA-256 of files and folders, computed once while they stay as they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from llmasos_hookspecs import CheckpointError

# By inode, so that a folder may be renamed; with the change time, because whoever copies a file can set the modification time.
_known: dict[tuple[int, ...], str] = {}
_lock = Lock()


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. A file of unchanged size and modification time is not read twice in a process.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        key = _key(path)
        with _lock:
            if (found := _known.get(key)) is not None:
                return found
        with path.open("rb", buffering=0) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the file and its permissions.") from error
    with _lock:
        _known[key] = found
    return found


def remember_digest(path: Path, digest: str) -> None:
    """Take ``digest`` for the SHA-256 of the file as it now is: for a store that checked it when it fetched the file."""
    with _lock:
        _known[_key(path)] = digest


def combined_digest(folder: Path, names: Iterable[str]) -> str:
    """One SHA-256 of several files of a folder: of their names and digests, in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(set(names)):
        whole.update(f"{name}\0{file_digest(folder / name)}\n".encode())
    return whole.hexdigest()


def _key(path: Path) -> tuple[int, ...]:
    state = os.stat(path)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns

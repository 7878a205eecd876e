"""Files that appear whole or not at all, and survive a power failure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, data: str | bytes | Iterable[bytes], *, mode: int = 0o666) -> None:
    """Write a file, or replace an older one of its name, in one step, also while other processes write it; text becomes UTF-8.

    The data is on the disk before the name is. A file that cannot be written leaves nothing, and an older one as it was.

    Args:
        path: of the file; its folder must exist.
        data: the whole content, or its parts in order.
        mode: permissions of a new file, less the user's umask.

    Raises:
        OSError: the file cannot be written.
    """
    parts = [data.encode()] if isinstance(data, str) else [data] if isinstance(data, bytes) else data
    fresh = path.with_name(f".{path.name}.partial-{os.urandom(6).hex()}")
    try:
        with open(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), mode), "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Write a file, or a folder's list of names, through to the disk. Windows does that for folders by itself. Raises ``OSError``."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

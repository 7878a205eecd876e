"""SHA-256 of files, cached while the files do not change: in the process, and for large files on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from threading import Lock
from typing import Final

from llmasos_hookspecs import VirtualPath
from llmasos_hookspecs.atomic import write_atomically
from llmasos_model_store.folders import cache_folder

#: Least size in bytes of a file whose digest is cached on disk; smaller files are read again as quickly.
_LARGE: Final = 1 << 20
#: Digests kept on disk; those written longest ago go first.
_MOST: Final = 4000
_LENGTH: Final = 64

# By inode, so that a folder may be renamed; with the change time, because programs that copy files can set the modification time.
_known: dict[tuple[int, ...], str] = {}
_lock = Lock()


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. A file of unchanged device, inode, size and times is not read twice. Raises ``OSError``."""
    if isinstance(path, VirtualPath):
        return path.sha256()
    key = _key(os.stat(path))
    with _lock:
        known = _known.get(key)
    if known is None:
        known = _recall(key)
    if known is not None:
        with _lock:
            _known[key] = known
        return known
    with path.open("rb", buffering=0) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        unchanged = _key(os.fstat(file.fileno())) == key
    if unchanged:
        _remember(key, found)
    return found


def remember_digest(path: Path, digest: str) -> None:
    """Cache ``digest`` as the SHA-256 of the file as it is now, for a caller that computed it while writing. Raises ``OSError``."""
    _remember(_key(os.stat(path)), digest)


def _key(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _remember(key: tuple[int, ...], digest: str) -> None:
    with _lock:
        _known[key] = digest
    if key[2] < _LARGE:
        return
    place = _place(key)
    with contextlib.suppress(OSError):  # a disk that is full or read-only costs reading the file again
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(place, digest, mode=0o600)
        _trim(place.parent)


def _recall(key: tuple[int, ...]) -> str | None:
    if key[2] < _LARGE:
        return None
    try:
        text = _place(key).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if len(text) == _LENGTH else None


def _trim(folder: Path) -> None:
    kept = list(folder.iterdir())
    if len(kept) > _MOST:
        for old in sorted(kept, key=lambda path: path.stat().st_mtime)[: len(kept) // 2]:
            old.unlink(missing_ok=True)


def _place(key: tuple[int, ...]) -> Path:
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:40]
    return cache_folder() / "checked" / "digests" / name

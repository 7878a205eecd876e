"""The cache folder of built graphs: entries are complete or absent, checked before use, and safe between processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from llmasos_hookspecs.atomic import write_atomically

_INDEX: Final = "index.json"
#: The models' files that a build was made of: by it core removes the build with its model.
_OF: Final = "of.json"
_SLICE: Final = 1 << 18
#: Copies of one model that a build notes beside the last.
_MOST_MODELS: Final = 63


def cache_key(**parts: Any) -> str:
    """The name of a cache folder: a digest of everything that determines the built graph."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def obtain(cache: Path, key: str, build: Callable[[Path], dict[str, Any]], *, of: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Return the folder that ``build`` fills and the plain data that it returned, from ``cache`` if it was built before.

    A folder whose files do not match the checksums of its index is built again. If two processes ask at once, one builds and the
    other waits. ``of``: the model's file or folder, which the build notes down; every use of the build is noted by its time.
    """
    folder = cache / key
    built = _read(folder)
    if built is not None:
        _used(folder, of)
        return folder, built
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{key}.lock"):
        built = _read(folder)
        if built is not None:
            return folder, built
        partial = cache / f"{key}.partial"
        _remove(partial)
        _remove(folder)
        partial.mkdir()
        try:
            built = build(partial)
            files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(partial.iterdir())}
            (partial / _INDEX).write_text(json.dumps({"files": files, "built": built}), encoding="utf-8")
            _used(partial, of)
            partial.rename(folder)
        except BaseException:
            _remove(partial)
            raise
    return folder, built


def _used(folder: Path, of: Path | None) -> None:
    """Note that the build is used now, and for which model; a cache that can only be read notes nothing."""
    with contextlib.suppress(OSError):
        os.utime(folder / _INDEX)
        if of is None:
            return
        place = str(of.resolve())
        try:
            known = [str(each) for each in json.loads((folder / _OF).read_text(encoding="utf-8"))["paths"]]
        except (OSError, ValueError, KeyError, TypeError):
            known = []
        if place not in known:
            write_atomically(folder / _OF, json.dumps({"paths": [*known[-_MOST_MODELS:], place]}))


def _read(folder: Path) -> dict[str, Any] | None:
    """The contents of the index, if every file matches its checksum."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        for name, (size, checksum) in index["files"].items():
            path = folder / name
            if path.stat().st_size != size or _checksum(path) != checksum:
                return None
        built = index["built"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return built if isinstance(built, dict) else None


def _checksum(path: Path) -> int:
    # One buffer that stays in the processor's cache: with 16 MB for each read, a quarter of the time went into new memory.
    value, buffer = 0, bytearray(_SLICE)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(view[:count], value)
    return value


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    elif os.path.lexists(folder):
        folder.unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets go of the lock

"""The cache of finished stages on disk, by the digest of all their inputs, within a size limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import attrs
from filelock import FileLock, Timeout

from llmasos_hookspecs import AccelerationError, AccelerationResult
from llmasos_hookspecs.atomic import write_atomically
from llmasos_hookspecs.plain_json import dump_json
from llmasos_huggingface_folder.manifest import NAME as MANIFEST
from llmasos_model_store.store import bytes_below
from llmasos_plugin_calls.returned import fault_of

#: Version of the cache key: increased when a change of core gives other outputs for the same inputs.
_VERSION: Final = 2
_MODEL, _RESULT = "model", "stage.json"


def content_key(**parts: Any) -> str:
    """Hexadecimal SHA-256 of plain data, whatever the order of its keys."""
    text = json.dumps({**parts, "cache": _VERSION}, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@attrs.frozen(kw_only=True)
class CachedStage:
    """A finished stage. ``seconds`` is how long it took when it ran."""

    path: Path
    result: AccelerationResult
    seconds: float


@attrs.frozen(kw_only=True)
class StageEntry:
    """A finished stage as a list shows it: ``path`` of its checkpoint, bytes, when it was used last in seconds since the epoch, and the
    digest of the checkpoint that the first stage began with, empty where it cannot be read."""

    path: Path
    size: int
    used: float
    base: str


class StageCache:
    """A folder of finished stages. An entry is a folder that appears whole, by a rename; one process at a time makes it.

    Beside the entries there are hidden files and folders (``.KEY...``): ``KEY.lock``, held by a process that makes or removes the entry;
    ``KEY.used-*``, one for each process that reads it, locked by that process; ``KEY.making-*`` and ``KEY.removing-*``, the folder of an
    entry that is being written or removed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, key: str) -> CachedStage | None:
        """The finished stage under ``key``, which counts as used now; None where there is none or it cannot be read."""
        folder = self._root / key
        try:
            found = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
            os.utime(folder / _RESULT)
            result = AccelerationResult(
                path=folder / _MODEL, touched=tuple(found["touched"]), skipped=dict(found["skipped"]), report=found["report"]
            )
            wrong = fault_of("llmasos_accelerate", result)  # an earlier LLMasOS did not look at all of it
            return None if wrong else CachedStage(path=folder / _MODEL, result=result, seconds=float(found["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of an entry while it is made; another process that needs the same entry waits, and then finds it."""
        self._root.mkdir(parents=True, exist_ok=True)
        with self._lock(key):
            yield

    @contextlib.contextmanager
    def in_use(self, key: str) -> Iterator[None]:
        """Protect the entry from removal while the ``with`` block runs; the protection ends when the process is killed. Enter it with the
        lock held."""
        path = self._root / f".{key}.used-{uuid4().hex}"
        with FileLock(path):
            yield
        path.unlink(missing_ok=True)

    def entries(self) -> tuple[StageEntry, ...]:
        """Every finished stage, the one used longest ago first."""
        found = [
            StageEntry(path=folder / _MODEL, size=bytes_below(folder), used=_last_used(folder), base=_base(folder))
            for folder in self._root.glob("[!.]*")
        ]
        return tuple(sorted(found, key=lambda entry: entry.used))

    def remove(self, base: str) -> int:
        """Remove the stages that were made of the checkpoint with a digest, directly or over others; returns the bytes freed. Those that a
        process makes or uses are kept."""
        return sum(self._drop(entry.path.parent.name) for entry in self.entries() if entry.base == base)

    def trim(self, limit: int, *, older: float = 0.0) -> int:
        """Remove the least recently used entries until the rest takes at most ``limit`` bytes; returns the bytes freed.

        Entries that a process makes or uses are kept, and with ``older`` those that were used in the last so many seconds. Unfinished
        folders of killed processes are removed too.
        """
        freed = sum(self._sweep(left) for left in self._root.glob(".*.making-*"))
        freed += sum(_remove(left) for left in self._root.glob(".*.removing-*"))
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= limit or time.time() - entry.used < older:
                break
            if gone := self._drop(entry.path.parent.name):
                freed += gone
                total -= entry.size
        return freed

    def _drop(self, key: str) -> int:
        """Remove an entry, unless a process makes or uses it; returns the bytes freed."""
        # Locked: another process makes the entry. Cannot be renamed: a process has its files open (Windows).
        with contextlib.suppress(Timeout, OSError), self._lock(key, timeout=0):
            if not self._is_used(key):
                doomed = self._root / f".{key}.removing-{uuid4().hex}"
                (self._root / key).rename(doomed)
                return _remove(doomed)
        return 0

    def _lock(self, key: str, timeout: float = -1) -> FileLock:
        return FileLock(self._root / f".{key}.lock", timeout=timeout)

    def _is_used(self, key: str) -> bool:
        """Whether a running process uses the entry; removes the marks of processes that have ended."""
        for mark in self._root.glob(f".{key}.used-*"):
            try:
                with FileLock(mark, timeout=0):
                    mark.unlink(missing_ok=True)
            except Timeout:
                return True
        return False

    def _sweep(self, left: Path) -> int:
        """Remove a workplace that no process uses."""
        key = left.name[1:].partition(".making-")[0]
        with contextlib.suppress(Timeout), self._lock(key, timeout=0):
            return _remove(left)
        return 0

    @contextlib.contextmanager
    def workplace(self, key: str) -> Iterator[Path]:
        """A new, empty folder in which to make the entry ``key``; removed at the end unless ``keep`` was called. Leftovers of killed
        processes are removed first. Call it with the lock held."""
        for stale in self._root.glob(f".{key}.making-*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = self._root / f".{key}.making-{os.getpid()}-{uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, workplace: Path, result: AccelerationResult, seconds: float) -> CachedStage:
        """Turn the workplace, whose folder ``model`` is finished, into the entry ``key``. Call it with the lock held."""
        record: Mapping[str, Any] = {
            "touched": list(result.touched),
            "skipped": dict(result.skipped),
            "report": dict(result.report),
            "seconds": seconds,
        }
        try:
            write_atomically(workplace / _RESULT, dump_json(record, indent=1))
            entry = self._root / key
            if entry.exists():
                shutil.rmtree(entry)  # unreadable, or it would have been found
            workplace.rename(entry)
        except OSError as error:
            raise AccelerationError(f"The stage's result could not be kept in {self._root} ({error.strerror or error}).") from error
        found = self.find(key)
        assert found is not None
        return found


def model_folder(workplace: Path) -> Path:
    """The folder of a workplace that the stage writes its checkpoint to."""
    return workplace / _MODEL


def _last_used(folder: Path) -> float:
    """Seconds since the epoch; 0 where the record is gone."""
    try:
        return (folder / _RESULT).stat().st_mtime
    except OSError:
        return 0.0


def _base(folder: Path) -> str:
    try:
        return str(json.loads((folder / _MODEL / MANIFEST).read_text(encoding="utf-8"))["base"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _remove(folder: Path) -> int:
    """Remove a folder; returns the bytes freed."""
    size = bytes_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return size - bytes_below(folder)

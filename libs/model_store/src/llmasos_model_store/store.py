"""The model store: the user's folder of fetched models.

An entry is a folder ``models/NAME`` that holds ``entry.json`` and the model's own files in ``files``. It is filled under
``staging``, written through to the disk, and renamed: it is there whole or not at all, and never changes. One process at a time
fills an entry; what a killed process left in its staging folder is found again by the next one.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from filelock import FileLock, Timeout

from llmasos_hookspecs import WORKING, LLMasOSError, SourceError
from llmasos_hookspecs.atomic import flush, write_atomically
from llmasos_hookspecs.nearest import did_you_mean
from llmasos_model_store.digests import file_digest, remember_digest
from llmasos_model_store.folders import data_folder

_FORMAT: Final = 1
_MODELS, _STAGING, _LOCKS, _TRASH = "models", "staging", "locks", "trash"

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@attrs.frozen(kw_only=True)
class StoredFile:
    """One file of an entry: bytes and hexadecimal SHA-256."""

    size: int
    sha256: str


@attrs.frozen(kw_only=True)
class StoredModel:
    """One entry of the store.

    Attributes:
        key: what it was stored under.
        path: folder of the model's files.
        source: where the files came from, exactly (a commit, a wheel's digest).
        license_id: SPDX identifier; empty where it is not known.
        added: when, in ISO 8601, UTC.
        files: by path within the folder, with ``/``.
    """

    key: str
    path: Path
    source: str
    license_id: str
    added: str
    files: Mapping[str, StoredFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over the names and digests of all files."""
        lines = (f"{file.sha256}  {name}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Store:
    """The ``llmasos_hookspecs.ModelStore`` in a folder; safe between threads and processes.

    ``root`` is by default the user's data folder, or ``$LLMASOS_HOME/data``.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or data_folder()

    def find(self, key: str) -> Path | None:
        """The folder of the model's files, if it is there. Works on a read-only store."""
        folder = self.root / _MODELS / _folder_name(key)
        return folder / "files" if (folder / "entry.json").is_file() else None

    def add(self, key: str, fill: Callable[[Path], None], *, source: str, license_id: str = "") -> Path:
        """Make ``fill`` write the model's files into a temporary folder, and make that the entry ``key``.

        Of several processes at once one fills, the others wait and find what it made. The temporary folder is the same after a
        crash, so that ``fill`` can resume what it finds there; what begins with ``.partial`` is taken away at the end.

        Raises:
            SourceError: the store cannot be written, the disk is full, or ``fill`` made no file.
        """
        return self.fetch(key, lambda folder: _filled(fill, folder, source, license_id))

    def fetch(self, key: str, fill: Callable[[Path], tuple[str, str]], *, waiting: Callable[[], None] | None = None) -> Path:
        """``add`` for a fill that learns the source and the licence while it works, and returns both.

        ``waiting`` is called once where another process fills the same entry.
        """
        found = self.get(key)
        if found is not None:
            return found.path
        name = _folder_name(key)
        staging = self.root / _STAGING / name
        with _in_words(self.root, key), self._locked(name, waiting):
            found = self.get(key)
            if found is not None:
                return found.path
            files = staging / "files"
            files.mkdir(parents=True, exist_ok=True)
            try:
                source, license_id = fill(files)
                self._sweep(files)
                self._seal(key, staging, source, license_id)
            except OSError as error:
                # On a full disk the partial files are removed; after any other error the next try resumes.
                if error.errno in _FULL:
                    shutil.rmtree(staging, ignore_errors=True)
                raise
            finally:
                # A fetch that brought nothing leaves nothing.
                with contextlib.suppress(OSError):
                    files.rmdir()
                    staging.rmdir()
        added = self.get(key)
        assert added is not None
        return added.path

    def get(self, key: str) -> StoredModel | None:
        """The entry ``key`` with all that is known of it.

        Raises:
            SourceError: its record is damaged.
        """
        folder = self.root / _MODELS / _folder_name(key)
        return _read_entry(folder) if (folder / "entry.json").is_file() else None

    def models(self) -> tuple[StoredModel, ...]:
        """All entries, sorted by key. A damaged one is left out; ``verify`` names it."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(SourceError):
                found.append(_read_entry(folder))
        return tuple(sorted(found, key=lambda entry: entry.key))

    def remove(self, key: str) -> int:
        """Remove an entry and what an unfinished fetch of it left; returns the bytes freed.

        Raises:
            SourceError: there is no such entry, with the nearest one, or the store cannot be written.
        """
        name = _folder_name(key)
        folder, staging = self.root / _MODELS / name, self.root / _STAGING / name
        if not folder.exists() and not staging.exists():
            raise self._unknown(key)
        freed = bytes_below(folder) + bytes_below(staging)
        with _in_words(self.root, key), self._locked(name, None):
            for doomed in (folder, staging):
                if doomed.exists():
                    self._discard(doomed)
        return freed

    def verify(self, key: str | None = None) -> Iterator[str]:
        """Read every file of one entry, or of all, and give a sentence for each that is not what was stored."""
        folders = list(self._folders()) if key is None else [self.root / _MODELS / _folder_name(key)]
        if key is not None and not folders[0].exists():
            raise self._unknown(key)
        for folder in folders:
            try:
                entry = _read_entry(folder)
            except SourceError as error:
                yield str(error)
                continue
            for name, recorded in entry.files.items():
                path = entry.path / name
                if not path.is_file():
                    yield f'{name} of the stored model "{entry.key}" is missing; remove the model and fetch it again.'
                elif path.stat().st_size != recorded.size or sha256_of(path) != recorded.sha256:
                    yield f'{name} of the stored model "{entry.key}" is damaged; remove the model and fetch it again.'

    def check(self, path: Path) -> None:
        """Hold the stored model that ``path`` lies in to its record: sizes always, digests once while its files stay as they are.
        Nothing is checked outside of the store.

        Raises:
            SourceError: a file is missing or damaged.
        """
        models = self.root / _MODELS
        if not path.is_relative_to(models):
            return
        entry = _read_entry(models / path.relative_to(models).parts[0])
        cure = f"llmasos models remove {entry.key} removes the model; then fetch it again"
        for name, recorded in entry.files.items():
            file = entry.path / name
            try:
                sound = file.stat().st_size == recorded.size and file_digest(file) == recorded.sha256
            except OSError as error:
                reason = error.strerror or str(error)
                raise SourceError(f'{name} of the stored model "{entry.key}" cannot be read ({reason}); {cure}.') from error
            if not sound:
                raise SourceError(f'{name} of the stored model "{entry.key}" is damaged; {cure}.')

    def clean(self) -> int:
        """Remove leftovers of killed processes: trash, and unfinished fetches that no process works on; returns the bytes freed."""
        freed = 0
        with _in_words(self.root, "the store"):
            for trash in _children(self.root / _TRASH):
                freed += bytes_below(trash)
                shutil.rmtree(trash, ignore_errors=True)
            for staging in _children(self.root / _STAGING):
                lock = self._lock(staging.name)
                with contextlib.suppress(Timeout), lock.acquire(timeout=0):
                    freed += bytes_below(staging)
                    shutil.rmtree(staging, ignore_errors=True)
        return freed

    def unfinished(self) -> Mapping[str, int]:
        """Folder name and bytes of each fetch that has begun and not ended."""
        return {staging.name: bytes_below(staging) for staging in _children(self.root / _STAGING)}

    def check_digest(self, name: str, digest: str) -> None:
        """Hold ``name``, a file that an index serves and promises never to change, to the digest that it had when it was first seen
        here, even if the model was removed since.

        Raises:
            SourceError: the digest is another one.
        """
        path = self.root / "digests.json"
        with _in_words(self.root, name), self._locked("digests", None):
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                known = {}
            except ValueError as error:
                raise SourceError(f"The record {path} of digests is damaged; remove it to trust what is fetched next.") from error
            if known.setdefault(name, digest) != digest:
                raise SourceError(
                    f"{name} has SHA-256 {digest}, and it was {known[name]} when it was first fetched: it has been replaced or "
                    f"tampered with, and was not stored; if you trust it, remove its line from {path}."
                )
            write_atomically(path, json.dumps(known, indent=1, sort_keys=True))

    def _unknown(self, key: str) -> SourceError:
        keys = [entry.key for entry in self.models()]
        return SourceError(f'The model store has no "{key}"{did_you_mean(key, keys)}')

    def _folders(self) -> Iterator[Path]:
        return (folder for folder in _children(self.root / _MODELS) if (folder / "entry.json").is_file())

    def _lock(self, name: str) -> FileLock:
        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    @contextlib.contextmanager
    def _locked(self, name: str, waiting: Callable[[], None] | None) -> Iterator[None]:
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _sweep(self, files: Path) -> None:
        """Take away a fill's working state."""
        for path in sorted(files.rglob(f"{WORKING}*"), reverse=True):
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Remove a file or folder from its place at once, and from the disk as far as that goes."""
        trash = self.root / _TRASH
        trash.mkdir(parents=True, exist_ok=True)
        # Renamed first: a half-removed entry must not be found, and a downloader that outlived its killed parent may still write here.
        target = trash / f"{path.name}-{os.getpid()}-{os.urandom(4).hex()}"
        path.rename(target)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def _seal(self, key: str, staging: Path, source: str, license_id: str) -> None:
        files = staging / "files"
        found = {path.relative_to(files).as_posix(): path for path in sorted(files.rglob("*")) if path.is_file()}
        links = [path for path in files.rglob("*") if path.is_symlink()]
        if links:
            raise SourceError(f'The fetch of "{key}" brought {links[0].name}, a link, which is not stored; this is a fault of its source.')
        if not found:
            raise SourceError(f'The fetch of "{key}" brought no file; this is a fault of its source.')
        entry: dict[str, Any] = {
            "format": _FORMAT,
            "key": key,
            "source": source,
            "license": license_id,
            "added": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "files": {name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for name, path in found.items()},
        }
        record = staging / "entry.json"
        record.write_text(json.dumps(entry, ensure_ascii=False, indent=1), encoding="utf-8")
        for path in (*found.values(), record):
            flush(path)
        for folder in (*(path for path in files.rglob("*") if path.is_dir()), files, staging):
            flush(folder)
        models = self.root / _MODELS
        models.mkdir(parents=True, exist_ok=True)
        # A folder without a record is no entry; it would be in the way of the rename.
        target = models / staging.name
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
        flush(models)
        for name, file in entry["files"].items():
            remember_digest(target / "files" / name, file["sha256"])


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder; other processes may make, move and remove some meanwhile."""
    total = 0
    # os.walk passes over folders that are gone; pathlib's globs raise for them.
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _filled(fill: Callable[[Path], None], folder: Path, source: str, license_id: str) -> tuple[str, str]:
    fill(folder)
    return source, license_id


def _folder_name(key: str) -> str:
    """A readable folder name that no two keys share, whatever they hold."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip(".-")[:80] or "model"
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _read_entry(folder: Path) -> StoredModel:
    path = folder / "entry.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise SourceError(f"The stored model {folder} was written by another version of LLMasOS; remove it and fetch it again.")
        return StoredModel(
            key=str(found["key"]),
            path=folder / "files",
            source=str(found["source"]),
            license_id=str(found["license"]),
            added=str(found["added"]),
            files={name: StoredFile(size=int(file["size"]), sha256=str(file["sha256"])) for name, file in found["files"].items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"The record {path} of a stored model is damaged; remove the folder {folder} and fetch the model again."
        ) from error


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _in_words(root: Path, key: str) -> Iterator[None]:
    try:
        yield
    except LLMasOSError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            sentence = f'The disk of the model store {root} is full, so "{key}" was not stored; make room, or set LLMASOS_HOME.'
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            sentence = f"The model store {root} cannot be written ({reason}); set LLMASOS_HOME to a folder of yours."
        else:
            sentence = f'"{key}" could not be stored in {root}: {reason}.'
        raise SourceError(sentence) from error

"""Unpacking archives that a stranger may have made: nothing outside the folder, no links, no bombs."""

from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from llmasos.system.sizes import size_in_words
from llmasos_hookspecs import LLMasOSError, SourceError

#: File name endings of the archives that can be unpacked.
ARCHIVE_SUFFIXES: Final = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_MAX_FILES: Final = 10_000
#: Weights hardly compress, so what grows more than this, and beyond a gibibyte, is a bomb.
_MAX_RATIO: Final = 50
_ALWAYS_ALLOWED: Final = 1 << 30
_CHUNK: Final = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive of a kind that can be unpacked."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def safe_path(name: str, where: str) -> PurePosixPath:
    """A file name from an archive, a manifest or a server as a path that stays inside the folder it is joined to.

    Raises:
        SourceError: it is absolute, leads outside, or holds what no file name should.
    """
    path = PurePosixPath(name)
    strange = not name or "\\" in name or ":" in name or any(ord(letter) < 32 for letter in name)
    if strange or path.is_absolute() or ".." in path.parts or not path.parts:
        raise SourceError(f"{where} names the file {name[:200]!r}, which could lead outside of its folder, so nothing of it is used.")
    return path


def unpack(
    archive: Path, folder: Path, *, wanted: Callable[[str], bool] | None = None, advance: Callable[[int], None] | None = None
) -> list[PurePosixPath]:
    """Unpack the wanted files of an archive into an empty folder; returns their paths within it.

    ``wanted`` is asked with each name, ``advance`` is told of the bytes written.

    Raises:
        SourceError: the archive is damaged, encrypted, holds links or names that lead outside, or grows beyond reason.
    """
    budget = max(_ALWAYS_ALLOWED, _MAX_RATIO * archive.stat().st_size)
    found: list[PurePosixPath] = []
    with _in_words(archive):
        for name, size, content in _members(archive):
            path = safe_path(name, f"The archive {archive.name}")
            if wanted is not None and not wanted(name):
                continue
            budget -= size
            if budget < 0 or len(found) >= _MAX_FILES:
                raise SourceError(f"The archive {archive.name} unpacks to far more than its own size, so it was not unpacked.")
            free = shutil.disk_usage(folder).free
            if size > free:
                room = f"takes {size_in_words(size)}, and {folder} has {size_in_words(free)} left"
                raise SourceError(f"{name} of the archive {archive.name} {room}; make room.")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # "x": a name that comes twice would replace what was checked.
            with content() as source, target.open("xb") as file:
                written = 0
                while chunk := source.read(min(_CHUNK, size - written + 1)):
                    written += len(chunk)
                    if written > size:
                        raise SourceError(f"{name} of the archive {archive.name} is longer than it says; the archive is damaged.")
                    file.write(chunk)
                    if advance is not None:
                        advance(len(chunk))
                if written != size:
                    raise SourceError(f"{name} of the archive {archive.name} is shorter than it says; the archive is damaged.")
            found.append(path)
    return found


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size and opener of each regular file."""
    if archive.name.lower().endswith((".zip", ".whl")):
        with zipfile.ZipFile(archive) as bundle:
            for member in bundle.infolist():
                # The upper half holds the Unix mode, where the archive has one.
                kind = (member.external_attr >> 16) & 0o170000
                if kind not in (0, 0o100000, 0o040000):
                    raise SourceError(f"The archive {archive.name} holds {member.filename}, a link or device, so it was not unpacked.")
                if not member.is_dir():
                    yield member.filename, member.file_size, _opener(bundle, member)
        return
    with tarfile.open(archive, "r:*") as tape:
        for entry in tape:
            if entry.isdir():
                continue
            if not entry.isreg():
                raise SourceError(f"The archive {archive.name} holds {entry.name}, a link or device, so it was not unpacked.")
            yield entry.name, entry.size, _extractor(tape, entry)


def _opener(bundle: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: bundle.open(member)


def _extractor(tape: tarfile.TarFile, entry: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        content = tape.extractfile(entry)
        assert content is not None
        return content

    return opened


@contextmanager
def _in_words(archive: Path) -> Iterator[None]:
    try:
        yield
    except LLMasOSError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise SourceError(f"The archive {archive.name} holds the file {error.filename} twice, so it was not unpacked.") from error
    except OSError as error:
        # What the disk says has a number; what a damaged archive makes gzip and its like say has none, or is a seek to nowhere.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise SourceError(f"The archive {archive.name} is damaged: {error}; fetch it again.") from error
    except Exception as error:  # the archive modules raise a dozen kinds for damaged input
        # tarfile says in several lines why it is none of the kinds that it knows.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise SourceError(f"The archive {archive.name} is damaged or encrypted: {reason}; fetch it again.") from error

"""Unpacks untrusted archives: no file outside the folder, no links, no decompression bombs."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from llmasos_hookspecs import LLMasOSError, SourceError
from llmasos_hookspecs.sizes import size_in_words

#: File name endings of the archives that can be unpacked.
ARCHIVE_SUFFIXES: Final = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_MAX_FILES: Final = 10_000
#: Files and folders; each costs memory, however small it is.
_MAX_ENTRIES: Final = 2 * _MAX_FILES
_LONGEST_NAME: Final = 4096
#: Bytes that a zip's list of its files may have: 10,000 of them take one or two million.
_MAX_DIRECTORY: Final = 8 << 20
#: Bytes that a tar may spend on what comes before one file: its header, and a long name in others before it.
_MAX_HEADERS: Final = 256 << 10
#: Bytes that taking an xz apart may take; the highest level of xz takes 65 MiB.
_XZ_MEMORY: Final = 256 << 20
#: Weights hardly compress, so what grows more than this, and beyond a gibibyte, is a bomb.
_MAX_RATIO: Final = 50
_ALWAYS_ALLOWED: Final = 1 << 30
_CHUNK: Final = 1 << 20
#: Bytes of the longest name of one file or folder that file systems take.
_LONGEST_PART: Final = 255


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
    if any(len(part) > _LONGEST_PART for part in name.encode("utf-8", "surrogatepass").split(b"/")):
        raise SourceError(f"{where} names the file {name[:80]!r}..., longer than file systems take; fetch it from elsewhere.")
    if strange or path.is_absolute() or ".." in path.parts or not path.parts:
        raise SourceError(f"{where} names the file {name[:200]!r}, which could lead outside of its folder, so nothing of it is used.")
    return path


def unpack(
    archive: Path, folder: Path, *, wanted: Callable[[str], bool] | None = None, advance: Callable[[int], None] | None = None
) -> list[PurePosixPath]:
    """Unpack the wanted files of an archive into an empty folder; returns their paths within it.

    ``wanted`` is called with each name and chooses the files; ``advance`` is called with the bytes written.

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


def open_zip(archive: Path) -> zipfile.ZipFile:
    """Open a zip whose list of files is no longer than any real one's; it is read as a whole, and takes ten times its size.

    Raises:
        SourceError: it is longer.
        zipfile.BadZipFile: the file is damaged.
    """
    if _directory_size(archive) > _MAX_DIRECTORY:
        raise SourceError(f"The archive {archive.name} lists far more files than any model has, so it was not unpacked.")
    return zipfile.ZipFile(archive)


def _directory_size(archive: Path) -> int:
    """Bytes of a zip's list of files, from the record at its end (PKWARE's APPNOTE.TXT, 4.3.14 and 4.3.16); 0 where there is none."""
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - (1 << 16) - 22))
        end = file.read()
        place = len(end) - 22 if end[-22:-18] == b"PK\5\6" and end[-2:] == b"\0\0" else end.rfind(b"PK\5\6")
        if place < 0 or len(end) - place < 22:
            return 0
        (found,) = struct.unpack_from("<I", end, place + 12)
        if found != 0xFFFFFFFF:
            return int(found)
        # Too large for four bytes: a locator before the record says where one with eight is.
        file.seek(max(0, start + place - 20))
        locator = file.read(20)
        if locator[:4] != b"PK\6\7":
            return int(found)
        file.seek(struct.unpack_from("<Q", locator, 8)[0])
        record = file.read(56)
        return struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else int(found)


class _Headers(io.RawIOBase):
    """A tar as a file that gives no more than some bytes of headers in a row: the tarfile module reads a long name whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _MAX_HEADERS

    def next_file(self) -> None:
        """What is read now is headers of another file."""
        self._left = _MAX_HEADERS

    def content(self, size: int) -> None:
        """What is read now is that many bytes of a file, which the caller counts."""
        self._left = size + _MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise _TooMuch
        self._left -= size
        return self._file.read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class _TooMuch(Exception):
    """More headers than any file has."""

    def __str__(self) -> str:
        return "its headers are longer than any real ones"


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size and opener of each regular file."""
    entries = _zip_entries if archive.name.lower().endswith((".zip", ".whl")) else _tar_entries
    for number, (name, size, is_folder, opener) in enumerate(entries(archive)):
        if number >= _MAX_ENTRIES or len(name) > _LONGEST_NAME:
            raise SourceError(f"The archive {archive.name} holds more files or longer names than any model has, so it was not unpacked.")
        if not is_folder:
            yield name, size, opener


_Entry = tuple[str, int, bool, Callable[[], IO[bytes]]]


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with open_zip(archive) as bundle:
        for member in bundle.infolist():
            # The upper half holds the Unix mode, where the archive has one.
            kind = (member.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                raise SourceError(f"The archive {archive.name} holds {member.filename}, a link or device, so it was not unpacked.")
            yield member.filename, member.file_size, member.is_dir(), _opener(bundle, member)


def _tar_entries(archive: Path) -> Iterator[_Entry]:
    budget = max(_ALWAYS_ALLOWED, _MAX_RATIO * archive.stat().st_size)
    with _decompressed(archive) as plain:
        headers = _Headers(plain)
        with tarfile.open(fileobj=headers, mode="r:") as tape:
            while (entry := tape.next()) is not None:
                if not entry.isdir() and (not entry.isreg() or entry.issparse()):
                    raise SourceError(f"The archive {archive.name} holds {entry.name[:200]}, a link or device, so it was not unpacked.")
                budget -= entry.size  # also of what is passed over: it has to be decompressed
                if budget < 0:
                    raise SourceError(f"The archive {archive.name} unpacks to far more than its own size, so it was not unpacked.")
                headers.content(entry.size)
                yield entry.name, entry.size, entry.isdir(), _extractor(tape, entry)
                headers.next_file()
                tape.members = []  # type: ignore[attr-defined]  # it would keep the headers of all


def _decompressed(archive: Path) -> IO[bytes]:
    """The tar inside, whatever it is packed with."""
    with archive.open("rb") as file:
        magic = file.read(1 << 16)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(archive)  # type: ignore[return-value]  # it reads as a BinaryIO does
    if magic.startswith(b"BZh"):
        return bz2.open(archive)
    if magic.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        # The header says how much memory it takes; what it says there is known once the beginning is read.
        lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(magic, max_length=1)
        return lzma.open(archive)
    return archive.open("rb")


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
        if error.errno not in (None, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG):
            raise
        raise SourceError(f"The archive {archive.name} is damaged: {error}; fetch it again.") from error
    except Exception as error:  # the archive modules raise a dozen kinds for damaged input
        # tarfile says in several lines why it is none of the kinds that it knows.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise SourceError(f"The archive {archive.name} is damaged or encrypted: {reason}; fetch it again.") from error

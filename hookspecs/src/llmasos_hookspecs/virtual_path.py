"""Files that are no plain files of the system: of an archive, say, or encrypted. Readers of checkpoints know them by a ``pathlib.Path``.

A format whose files are kept so implements ``FileTree``, and opens what ``virtual_folder`` returns by ``context.load_checkpoint``: whatever
reads a checkpoint's files by the methods of ``pathlib.Path`` then reads these. What would give their name to the operating system, or to a
library that opens files itself, is refused in one sentence.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Generator, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self

from llmasos_hookspecs.errors import UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

if sys.platform == "win32":
    from pathlib import WindowsPath as _SystemPath
else:
    from pathlib import PosixPath as _SystemPath


class FileTree(Protocol):
    """Files by their names, which are relative and have ``/`` between folder and file."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Name -> bytes, of every file."""
        ...

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bytes ``start .. stop`` of a file, which lie within it: uint8 [stop - start], of the caller's own. Raises ``CheckpointError``
        where they are not what was written."""
        ...

    def sha256(self, name: str) -> str:
        """Hexadecimal SHA-256 of a file, known without reading it."""
        ...

    def pseudonym(self, digest: str) -> str:
        """What may be remembered on disk in the place of the digest of some content: 64 hexadecimal digits that tell nothing of it where
        the files are secret."""
        ...


class VirtualPath(_SystemPath):
    """A file or folder of a ``FileTree``; made by ``virtual_folder``.

    pathlib makes paths of paths by their class alone, so that each tree has a class of its own.
    """

    tree: ClassVar[FileTree]
    top: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> str:
        """The name within the tree; ``.`` for the folder that holds it all, empty for what is not of the tree."""
        depth = len(self.top)
        return ("/".join(self.parts[depth:]) or ".") if self.parts[:depth] == self.top else ""

    def mapped(self) -> VirtualFile:
        """The file as bytes that are read when they are sliced. Raises ``FileNotFoundError``."""
        return VirtualFile(self.tree, self._file())

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file. Raises ``FileNotFoundError``."""
        return self.tree.sha256(self._file())

    def pseudonym(self, digest: str) -> str:
        """See ``FileTree``."""
        return self.tree.pseudonym(digest)

    def __fspath__(self) -> NoReturn:
        raise UnsupportedModel(f"{self} is not kept as a plain file, and what reads it here asks the system for one; unseal the model.")

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self.key in self.tree.sizes

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        key = self.key
        return key == "." or (bool(key) and any(name.startswith(f"{key}/") for name in self.tree.sizes))

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.is_dir():
            return os.stat_result((stat.S_IFDIR | 0o500, 0, 0, 1, 0, 0, 0, 0, 0, 0))
        return os.stat_result((stat.S_IFREG | 0o400, 0, 0, 1, 0, 0, self.tree.sizes[self._file()], 0, 0, 0))

    def lstat(self) -> os.stat_result:
        return self.stat()

    def open(  # type: ignore[override]  # one signature in the place of pathlib's overloads
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.IOBase:
        if set(mode) - set("rbt"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        raw = _RawFile(self.mapped())
        if "b" in mode:
            return raw if buffering == 0 else io.BufferedReader(raw)
        return io.TextIOWrapper(io.BufferedReader(raw), encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        file = self.mapped()
        return file[: file.size].tobytes()

    def iterdir(self) -> Generator[Self, None, None]:
        prefix = "" if self.key == "." else f"{self.key}/"
        if not self.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        inside = (name.removeprefix(prefix) for name in self.tree.sizes if name.startswith(prefix))
        yield from [self / name for name in dict.fromkeys(name.partition("/")[0] for name in inside)]

    def glob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]  # trees have names of one case and no links
        return (path for path, parts in self._below() if _matches(parts, PurePosixPath(pattern).parts))

    def rglob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]  # as for glob
        wanted = PurePosixPath(pattern).parts
        return (path for path, parts in self._below() if _matches(parts[-len(wanted) :], wanted))

    def resolve(self, strict: bool = False) -> Self:
        return self

    def absolute(self) -> Self:
        return self

    def _file(self) -> str:
        key = self.key
        if key not in self.tree.sizes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return key

    def _below(self) -> Iterator[tuple[Self, tuple[str, ...]]]:
        """Files and folders below this one, with the parts of their names from here."""
        prefix = "" if self.key == "." else f"{self.key}/"
        names = [PurePosixPath(name.removeprefix(prefix)) for name in self.tree.sizes if name.startswith(prefix)]
        every = dict.fromkeys(part for name in names for part in (name, *name.parents) if part.parts)
        return ((self / str(each), each.parts) for each in every)


class VirtualFile:
    """The bytes of a file of a ``FileTree``; each slice is read anew."""

    def __init__(self, tree: FileTree, name: str) -> None:
        self._tree, self._name = tree, name
        self.size = tree.sizes[name]

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError("the bytes of a virtual file are read in their order")
        return self._tree.read(self._name, start, max(start, stop))


class _RawFile(io.RawIOBase):
    """A virtual file that is read from its beginning to its end."""

    def __init__(self, file: VirtualFile) -> None:
        super().__init__()
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._place = origin + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self._file[self._place : self._place + len(view)]
        view[: found.size] = found.data
        self._place += found.size
        return int(found.size)


def virtual_folder(root: Path, tree: FileTree) -> VirtualPath:
    """The folder that holds the files of ``tree``; messages show them as if they lay in ``root``."""
    # Absolute, so that names on which other parts of a program call absolute() or resolve() stay within it.
    place = root.absolute()
    made = type("VirtualPath", (VirtualPath,), {"tree": tree, "top": place.parts})
    found: VirtualPath = made(str(place))
    return found


def _matches(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return len(parts) == len(patterns) and all(fnmatchcase(part, pattern) for part, pattern in zip(parts, patterns, strict=True))

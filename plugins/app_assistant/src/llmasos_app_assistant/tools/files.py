"""Reading files below folders that the config names."""

from __future__ import annotations

import fnmatch
import itertools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from llmasos_app_assistant.tools.functions import tool
from llmasos_app_assistant.tools.tool import Tool, ToolError
from llmasos_hookspecs import ConfigError

#: Files that a list shows, bytes of a file that are read, and lines that one call returns.
_LISTED: Final = 200
_BYTES: Final = 4 << 20
_LINES: Final = 200
#: Files and folders that are looked at for a list.
_LOOKED_AT: Final = 20_000


class Folders:
    """Folders whose files may be read, each by its own name: ``notes/2024/may.md`` is a file below the folder ``.../notes``.

    Names that begin with a dot are left out, and so is what a link leads to outside of the folder.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        """Raises ``ConfigError`` where one is no folder, or two have one name."""
        found: dict[str, Path] = {}
        for each in folders:
            path = Path(each).expanduser()
            if not path.is_dir():
                raise ConfigError(f'"{each}" is no folder whose files could be read.')
            real = path.resolve()
            if real.name in found:
                raise ConfigError(f'Two folders are called "{real.name}"; a file below them has to have one name.')
            found[real.name] = real
        self._roots: Final[Mapping[str, Path]] = found

    def files(self, pattern: str = "*") -> Iterator[str]:
        """The files whose path, or name, matches a pattern, sorted."""
        for name, root in sorted(self._roots.items()):
            for path in itertools.islice(_below(root), _LOOKED_AT):
                shown = f"{name}/{path.relative_to(root).as_posix()}"
                if fnmatch.fnmatchcase(shown, pattern) or fnmatch.fnmatchcase(path.name, pattern):
                    yield shown

    def text(self, path: str) -> str:
        """The text of a file.

        Raises:
            ToolError: there is none, it lies outside, or it is no text.
        """
        parts = path.replace("\\", "/").split("/")
        root = self._roots.get(parts[0])
        if root is None or len(parts) < 2 or any(part in ("", ".", "..") or part.startswith(".") or "\0" in part for part in parts[1:]):
            raise ToolError(f"{path!r} is no file that may be read; list_files tells them.")
        try:
            content = _content(root, root.joinpath(*parts[1:]), path)
        except OSError as error:
            raise ToolError(f"{path!r} cannot be read: {error.strerror}.") from error
        if b"\0" in content:
            raise ToolError(f"{path!r} is no text.")
        return content.decode("utf-8", "replace")


def file_tools(folders: Folders) -> list[Tool]:
    """The tools ``list_files`` and ``read_file``."""

    @tool(repeatable=True)
    def list_files(pattern: str = "*") -> str:
        """List the files that can be read.

        Args:
            pattern: of their paths or names, such as *.md.
        """
        found = list(itertools.islice(folders.files(pattern), _LISTED + 1))
        more = [f"... and more; give a narrower pattern than {pattern!r}."] if len(found) > _LISTED else []
        return "\n".join([*found[:_LISTED], *more]) or f"No file matches {pattern!r}."

    @tool(repeatable=True)
    def read_file(path: str, first_line: int = 1, lines: int = _LINES) -> str:
        """Read a file of text.

        Args:
            path: as list_files shows it.
            first_line: to begin with, from 1.
            lines: how many at most.
        """
        found = folders.text(path).splitlines()
        first = max(1, first_line)
        shown = found[first - 1 : first - 1 + max(1, min(lines, _LINES))]
        left = len(found) - (first - 1 + len(shown))
        return "\n".join([*shown, *([f"[{left} more lines follow; read on from line {first + len(shown)}.]"] if left > 0 else [])])

    return [list_files, read_file]


def _below(root: Path) -> Iterator[Path]:
    """The regular files below a folder; links to folders are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and _inside(root, path) and path.is_file():
                yield path


def _inside(root: Path, path: Path) -> bool:
    try:
        return _real(path).is_relative_to(root)
    except OSError:  # a link that leads nowhere, or to itself
        return False


def _real(path: Path) -> Path:
    """Where links lead. Raises ``OSError``, for a link to itself too, where ``Path.resolve`` has an error of its own."""
    return Path(os.path.realpath(path, strict=True))


def _content(root: Path, path: Path, shown: str) -> bytes:
    """The bytes of a file, which lies below ``root`` when it is opened and after."""
    real = _real(path)
    if not real.is_relative_to(root):
        raise ToolError(f"{shown!r} is a link that leads out of its folder, so it is not read.")
    # No link is followed that was put there meanwhile, and a pipe does not hold the call.
    descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        opened = os.fstat(descriptor)
        if not stat.S_ISREG(opened.st_mode):
            raise ToolError(f"{shown!r} is no file.")
        again = _real(path)
        if not again.is_relative_to(root) or not os.path.samestat(opened, os.stat(again)):
            raise ToolError(f"{shown!r} was replaced while it was opened; try again.")
        if opened.st_size > _BYTES:
            raise ToolError(f"{shown!r} has {opened.st_size} bytes, and at most {_BYTES} are read.")
        return stream.read(_BYTES)

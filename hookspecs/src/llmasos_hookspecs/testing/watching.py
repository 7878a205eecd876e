"""What a plugin did beside what it was asked for: files it opened for writing, and what it asked of an object it was given."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_listening: list[list[str]] = []
_hooked = False


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook. Python cannot remove it, so it does nothing while there is no listener."""
    if not _listening:
        return
    if event == "open":
        path, mode, flags = arguments
        touched = [path] if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & _WRITES) else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        touched = [arguments[0]]
    elif event in ("os.rename", "os.link", "os.symlink"):
        touched = [arguments[0], arguments[1]] if event == "os.rename" else [arguments[1]]
    else:
        return
    for path in touched:
        if isinstance(path, str | bytes | os.PathLike):
            _listening[-1].append(os.fsdecode(path))


@contextmanager
def writes_outside(root: Path) -> Iterator[list[Path]]:
    """The paths outside ``root`` that this process writes to while the ``with`` block runs, filled in at its end.

    Temporary files are made below ``root`` meanwhile. What the interpreter compiles and devices do not count. Processes that are started
    are not seen.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_listen)
        _hooked = True
    found: list[Path] = []
    touched: list[str] = []
    place, before = root / "tmp", tempfile.tempdir
    place.mkdir(exist_ok=True)
    _listening.append(touched)
    tempfile.tempdir = str(place)
    try:
        yield found
    finally:
        tempfile.tempdir = before
        _listening.pop()
        inside = root.resolve()
        for text in dict.fromkeys(touched):
            path = Path(text).absolute()
            ours = path.resolve().is_relative_to(inside) or path.is_relative_to("/dev") or path.is_relative_to("/proc")
            if not ours and "__pycache__" not in path.parts:
                found.append(path)


def within(seconds: float, call: Callable[[], Any], *, daemon: bool = True) -> bool:
    """Whether ``call`` ends in that time, on a thread of its own, by default a daemon as core's are. Raises what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=daemon)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return not thread.is_alive()


class Watched:
    """A stand-in for any object, which records its attribute accesses, and calls by name."""

    def __init__(self, asked: list[str] | None = None) -> None:
        vars(self)["asked"] = [] if asked is None else asked

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        asked = vars(self)["asked"]
        asked.append(name)
        return Watched(asked)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)["asked"].append(f"{name} =")

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        return None

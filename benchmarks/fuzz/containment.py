"""What a reader of a stranger's file may do: raise an error of ours, in one line, within bounds of memory, in its own folder."""

from __future__ import annotations

import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

import llmasos
from llmasos_hookspecs import LLMasOSError

#: What no file may lead to, by the names of Python's audit events.
FORBIDDEN: Final = frozenset(
    {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.bind"}
)
#: What may happen in the scratch folder alone, and which of the event's arguments are the paths that it changes.
CHANGES: Final = {
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree"), (0,)),
    **dict.fromkeys(("os.link", "os.symlink"), (1,)),
    "os.rename": (0, 1),
}
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Modules are read where they are imported for the first time.
_CODE: Final = tuple({sys.prefix, sys.base_prefix, *(str(Path(part.__file__).parents[2]) for part in (llmasos,) if part.__file__)})
#: How much memory the machine has.
_SYSTEM: Final = "/proc/meminfo"


class Strayed(AssertionError):
    """A file made its reader do what no file may."""


class _Events:
    """What one thread did; audit hooks cannot be taken off again, so there is one."""

    def __init__(self) -> None:
        self.thread: int | None = None  # of the case; what others do meanwhile is not its doing
        self.opened: list[str] = []
        self.changed: list[tuple[str, str]] = []
        self.forbidden: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread is None or self.thread != threading.get_ident():  # None also where the interpreter ends, without modules
            return
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            if isinstance(arguments[2], int) and arguments[2] & _WRITES:
                self.changed.append((event, str(arguments[0])))
            else:
                self.opened.append(str(arguments[0]))
        elif event in CHANGES:
            self.changed += [(event, _place(arguments, number)) for number in CHANGES[event]]
        elif event in FORBIDDEN:
            self.forbidden.append(f"{event} {arguments!r}")


def _place(arguments: tuple[Any, ...], number: int) -> str:
    """The path of an event, in the folder that its descriptor stands for; descriptors come last, one for each path."""
    path = arguments[number]
    if not isinstance(path, (str, os.PathLike)):
        return repr(path)
    last = arguments[-1]
    if os.path.isabs(path) or len(arguments) == 1 or not isinstance(last, int) or last < 0:
        return str(path)
    return os.path.join(os.readlink(f"/proc/self/fd/{last}"), path)


_events = _Events()
sys.addaudithook(_events)


class PeakMemory:
    """Bytes of the resident set over what they were: the memory of libraries that Python does not see. Always 0 where Linux is not."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
            self._before = self._status("VmRSS")
        except OSError:
            self._before = None

    def read(self) -> int:
        return 0 if self._before is None else self._status("VmHWM") - self._before

    @staticmethod
    def _status(key: str) -> int:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(text.partition(f"{key}:")[2].split(maxsplit=1)[0]) << 10


@contextmanager
def contained(folder: Path, memory: int, *, scratch: Path | None = None, traced: bool = True) -> Iterator[None]:
    """Nothing but files of ``folder`` is read inside, and at most ``memory`` bytes taken; an error of ours is as good as an answer.

    ``scratch``: where files may be made and removed. ``traced``: Python's own memory is counted too, which takes several times as long;
    the resident set is counted always.

    Raises:
        Strayed: something else happened.
    """
    peak = PeakMemory()
    if traced:
        tracemalloc.start()
    for found in (_events.opened, _events.changed, _events.forbidden):
        found.clear()
    _events.thread = threading.get_ident()
    counted = 0
    try:
        with np.errstate(all="ignore"):
            yield
    except LLMasOSError as error:
        _events.thread = None
        check_sentence(error)
    finally:
        _events.thread = None
        if traced:
            counted = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    _check(folder, scratch, max(counted, peak.read()), memory)


def _check(folder: Path, scratch: Path | None, taken: int, memory: int) -> None:
    if taken >= memory:
        raise Strayed(f"it took {taken >> 20} MiB, and {memory >> 20} are allowed")
    if _events.forbidden:
        raise Strayed(f"it led to {_events.forbidden[0][:200]}")
    for event, path in _events.changed:
        if path != os.devnull and (scratch is None or not _changed(event, Path(path)).is_relative_to(scratch.resolve())):
            raise Strayed(f"it led to {event} of {path}")
    for path in _events.opened:
        inside = any(Path(path).resolve().is_relative_to(each.resolve()) for each in (folder, scratch) if each is not None)
        if not inside and path != _SYSTEM and not path.startswith((*_CODE, os.devnull)):
            raise Strayed(f"it opened {path}")


def _changed(event: str, path: Path) -> Path:
    """What an event changes: the file behind a link where it is opened, else the link itself."""
    return path.resolve() if event == "open" else path.parent.resolve() / path.name


def check_sentence(error: LLMasOSError) -> None:
    """An error of ours is one line, of a length that can be read; a config's problems are told all at once."""
    text = str(error)
    if not text.strip() or len(text) >= 5000 or "\n" in text:
        raise Strayed(f"its error is no single sentence: {text[:300]!r}") from error

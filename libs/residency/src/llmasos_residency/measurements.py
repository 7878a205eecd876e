"""Measured memory and time of loads on this machine, stored by weights and loader."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

import attrs

from llmasos_hookspecs.atomic import write_atomically
from llmasos_residency.prediction import Need

#: Seconds between two samples of the process's memory while a model loads.
_PERIOD: Final = 0.02
#: Seconds that the end of the sampling thread is waited for, which is in the middle of one sample.
_END_SECONDS: Final = 10.0


class Measurements:
    """A folder with one small file for each pair of weights and loader; a file that cannot be read counts as not measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def key(*, digest: str, loader: str, options: Mapping[str, Any], context_length: int | None) -> str:
        """The key of a measurement."""
        parts = [digest, loader, dict(options), context_length]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def find(self, key: str) -> Need | None:
        try:
            found = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            return Need(**{field.name: found[field.name] for field in attrs.fields(Need)})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def add(self, key: str, measured: Need) -> None:
        """Store a measurement; a disk that is full or read-only does not fail the load."""
        path = self._folder / f"{key}.json"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(attrs.asdict(measured)))


class Peak:
    """The most memory in bytes that the process held beyond what it held at the start; pages of mapped files do not count."""

    def __init__(self) -> None:
        self._first = private_bytes()
        # By thread: what one thread read before another must not replace what that read later.
        self._most: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        self.look()
        return max(0, max(list(self._most.values())) - self._first)

    def look(self) -> None:
        found, thread = private_bytes(), threading.get_ident()
        self._most[thread] = max(found, self._most.get(thread, 0))


@contextlib.contextmanager
def watch_peak() -> Iterator[Peak]:
    """Sample the process's memory while the ``with`` block runs. What other threads allocate meanwhile counts too."""
    peak = Peak()
    over: SimpleQueue[None] = SimpleQueue()  # its methods are atomic, and Ctrl-C may strike anywhere

    def sample() -> None:
        while True:
            try:
                return over.get(timeout=_PERIOD)
            except Empty:
                peak.look()

    thread = threading.Thread(target=sample, name="llmasos-peak", daemon=True)
    try:
        thread.start()
        yield peak
    finally:
        over.put(None)
        if thread.is_alive():
            thread.join(_END_SECONDS)


def private_bytes() -> int:
    """Resident anonymous memory of the process (not backed by files), in bytes."""
    import psutil

    process: Any = psutil
    memory = process.Process().memory_info()
    return int(memory.rss) - int(getattr(memory, "shared", 0))

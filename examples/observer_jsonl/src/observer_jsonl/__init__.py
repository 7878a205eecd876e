"""An observer that writes one JSON line for each finished request."""

from __future__ import annotations

import atexit
import datetime
import json
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs import Component, RequestRecord, hookimpl

#: Names the file; observers have no options of their own in the hooks' calls.
VARIABLE = "LLMASOS_REQUEST_LOG"


def line(record: RequestRecord, *, now: float, wall: float) -> dict[str, Any]:
    """The record with durations in seconds; ``now`` and ``wall`` are the same moment on the monotonic clock and the calendar's."""
    facts = attrs.asdict(record)
    queued, started, first, finished = (facts.pop(key) for key in ("queued", "started", "first_token", "finished"))
    return {
        "queued_at": datetime.datetime.fromtimestamp(wall - (now - queued), datetime.UTC).isoformat(timespec="milliseconds"),
        "wait_s": None if started is None else round(started - queued, 6),
        "ttft_s": None if first is None else round(first - queued, 6),
        "total_s": round(finished - queued, 6),
        **facts,
    }


class JsonLines:
    """Appends lines to a file from a thread of its own; drops them, and counts what it dropped, rather than let anybody wait."""

    def __init__(self, path: Path, *, waiting: int = 10_000) -> None:
        self._path = path
        self._queue: queue.Queue[dict[str, Any] | threading.Event] = queue.Queue(waiting)
        self._dropped = 0
        threading.Thread(target=self._write, name="observer-jsonl", daemon=True).start()

    def add(self, facts: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(facts | ({"dropped": self._dropped} if self._dropped else {}))
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0

    def flush(self, timeout: float = 5.0) -> None:
        """Wait until what was added is in the file."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(timeout)

    def _write(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                with self._path.open("ab", buffering=0) as file:  # one write to a file opened for appending stays whole
                    file.write(json.dumps(item, ensure_ascii=False).encode() + b"\n")
            except OSError:
                self._dropped += 1


_files: dict[Path, JsonLines] = {}
_lock = threading.Lock()


def _file() -> JsonLines:
    path = Path(os.environ.get(VARIABLE) or "llmasos-requests.jsonl").absolute()
    with _lock:
        if path not in _files:
            _files[path] = JsonLines(path)
        return _files[path]


def _flush_all() -> None:
    for file in list(_files.values()):
        file.flush()


atexit.register(_flush_all)


@hookimpl
def llmasos_component() -> Component:
    return Component(summary=f"Writes one JSON line for each finished request to the file that {VARIABLE} names.")


@hookimpl
def llmasos_request_finished(record: RequestRecord) -> None:
    _file().add(line(record, now=time.monotonic(), wall=time.time()))


@hookimpl
def llmasos_pipeline_closed(pipeline: object) -> None:
    _flush_all()

"""Daemon threads for short work, started when there is work and ended when there is none."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from llmasos_hookspecs.guarding.changes import Changes

_log = logging.getLogger("llmasos.servers")

#: Seconds without work after which a thread ends.
_IDLE_SECONDS: Final = 5.0


class Workers:
    """Does work in the order in which it comes, some of it at the same time."""

    def __init__(self, most: int, name: str) -> None:
        """``most``: threads at once, each called ``name``."""
        self._most: Final = most
        self._name: Final = name
        self._work: deque[Callable[[], object]] = deque()
        self._changes = Changes()
        self._threads = self._idle = 0
        self._process = os.getpid()
        self._closed = False

    def do(self, work: Callable[[], object]) -> None:
        """Do ``work``, which tells of its errors itself, soon. Raises ``RuntimeError`` where the system has no thread for it."""
        if self._process != os.getpid():  # forked: the threads are the parent's, and one of them may have held the lock
            self._process, self._changes, self._threads, self._idle = os.getpid(), Changes(), 0, 0
            self._work.clear()
        with self._changes.lock:
            if self._idle <= len(self._work) and self._threads < self._most:
                try:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()
                except RuntimeError:
                    if not self._threads:
                        raise
                else:
                    self._threads += 1
            self._work.append(work)
            self._changes.tell()

    def forget(self, work: Callable[[], object]) -> bool:
        """Do not do ``work``; False where it has begun, or is done."""
        with self._changes.lock:
            waits = work in self._work
            if waits:
                self._work.remove(work)
            return waits

    def close(self) -> None:
        """End the threads once the work that there is has been done."""
        with self._changes.lock:
            self._closed = True
            self._changes.tell()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:  # a fault of core; the thread goes on with the work of others
                _log.exception("The work on a request failed.")

    def _next(self) -> Callable[[], object] | None:
        with self._changes.lock:
            self._idle += 1
        self._changes.wait_for(lambda: bool(self._work) or self._closed, _IDLE_SECONDS, struck=False)
        with self._changes.lock:
            self._idle -= 1
            if self._work:
                return self._work.popleft()
            self._threads -= 1
            return None

"""Daemon threads for short work, started when there is work and ended when there is none."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

_log = logging.getLogger("llmasos.servers")

#: Seconds without work after which a thread ends.
_IDLE_SECONDS: Final = 5.0

Work = Callable[[], object]


class Workers:
    """Does work in the order in which it comes, some of it at the same time.

    Work wakes one idle thread, the one that worked last. All of them, for one to find it, took more processor time than what most of them
    are for.
    """

    def __init__(self, most: int, name: str) -> None:
        """``most``: threads at once, each called ``name``."""
        self._most: Final = most
        self._name: Final = name
        self._work: deque[Work] = deque()
        self._lock = threading.RLock()  # implemented in C: no exception can strike between taking it and the block
        self._threads = 0
        self._idle: list[SimpleQueue[Work | None]] = []
        self._process = os.getpid()
        self._closed = False

    def do(self, work: Work) -> None:
        """Do ``work``, which tells of its errors itself, soon. Raises ``RuntimeError`` where the system has no thread for it."""
        if self._process != os.getpid():  # forked: the threads are the parent's, and one of them may have held the lock
            self._process, self._lock, self._threads, self._idle = os.getpid(), threading.RLock(), 0, []
            self._work.clear()
        with self._lock:
            if self._idle:
                self._idle.pop().put(work)
                return
            if self._threads < self._most:
                try:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()
                except RuntimeError:
                    if not self._threads:
                        raise
                else:
                    self._threads += 1
            self._work.append(work)

    def forget(self, work: Work) -> bool:
        """Do not do ``work``; False where it has begun, or is done."""
        with self._lock:
            waits = work in self._work
            if waits:
                self._work.remove(work)
            return waits

    def close(self) -> None:
        """End the threads once the work that there is has been done."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().put(None)

    def _run(self) -> None:
        given: SimpleQueue[Work | None] = SimpleQueue()
        while (work := self._next(given)) is not None:
            try:
                work()
            except Exception:  # a fault of core; the thread goes on with the work of others
                _log.exception("The work on a request failed.")

    def _next(self, given: SimpleQueue[Work | None]) -> Work | None:
        """The next work of a thread, for which it may wait; None: it ends."""
        with self._lock:
            if self._work:
                return self._work.popleft()
            if self._closed:
                self._threads -= 1
                return None
            self._idle.append(given)
        work = None
        with contextlib.suppress(Empty):
            work = given.get(timeout=_IDLE_SECONDS)
        with self._lock:
            if given in self._idle:
                self._idle.remove(given)
            elif work is None:  # it may have been given some in the last moment
                with contextlib.suppress(Empty):
                    work = given.get_nowait()
            if work is None:
                self._threads -= 1
        return work

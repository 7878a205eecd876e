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
    are for. Nor is a second one woken before the first has come to look: the threads of a burst of work would only wait for the
    interpreter's lock. It wakes the next itself where there is more, before it begins with work that may take long.
    """

    def __init__(self, most: int, name: str) -> None:
        """``most``: threads at once, each called ``name``."""
        self._most: Final = most
        self._name: Final = name
        self._work: deque[Work] = deque()
        self._lock = threading.RLock()  # implemented in C: no exception can strike between taking it and the block
        self._threads = 0
        self._idle: list[SimpleQueue[None]] = []
        self._waking = False  # a thread was woken, or started, and has not come to look
        self._process = os.getpid()
        self._closed = False

    def do(self, work: Work) -> None:
        """Do ``work``, which tells of its errors itself, soon. Raises ``RuntimeError`` where the system has no thread for it."""
        if self._process != os.getpid():  # forked: the threads are the parent's, and one of them may have held the lock
            self._process, self._lock, self._threads, self._idle = os.getpid(), threading.RLock(), 0, []
            self._waking = False
            self._work.clear()
        with self._lock:
            self._work.append(work)
            try:
                self._wake()
            except RuntimeError:
                if not self._threads:
                    self._work.pop()
                    raise

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

    def _wake(self) -> None:
        """With the lock held: have a thread come to look, unless one is about to."""
        if self._waking:
            return
        if self._idle:
            self._idle.pop().put(None)
        elif self._threads < self._most:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._threads += 1
        else:
            return  # all are at work, and look when they are done
        self._waking = True

    def _run(self) -> None:
        bell: SimpleQueue[None] = SimpleQueue()
        woken = True
        while (work := self._next(bell, woken)) is not None:
            woken = False
            try:
                work()
            except Exception:  # a fault of core; the thread goes on with the work of others
                _log.exception("The work on a request failed.")

    def _next(self, bell: SimpleQueue[None], woken: bool) -> Work | None:
        """The next work of a thread, for which it may wait; None: it ends. ``woken``: it comes because it was woken or started."""
        while True:
            with self._lock:
                if woken:
                    self._waking = False
                if self._work:
                    work = self._work.popleft()
                    if self._work:
                        with contextlib.suppress(RuntimeError):  # the system has no further thread: this one goes on alone
                            self._wake()
                    return work
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle.append(bell)
            try:
                bell.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if bell in self._idle:
                        self._idle.remove(bell)
                        self._threads -= 1
                        return None
                bell.get()  # it was rung in the last moment
            woken = True

"""The watchdog notices that a plugin call does not return: one thread for all that wait for plugins in the process."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from typing import Final, Protocol

from llmasos_hookspecs.guarding.changes import Changes

_log = logging.getLogger("llmasos")

#: Seconds between two checks of what is busy, unless it says that later will do.
TICK: Final = 0.1


class Watch:
    """What a thread is doing; the thread alone writes it, the watchdog reads it.

    Attributes:
        since: ``time.monotonic`` seconds when its round began; None while it waits for work.
        calling: label and method of the plugin call that it is in.
    """

    __slots__ = ("calling", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self.calling: tuple[str, str] | None = None


class Watched(Protocol):
    """An object that the watchdog checks."""

    def look(self, now: float) -> bool | float:
        """Act on timeouts at ``now`` (``time.monotonic`` seconds); returns whether the watchdog shall call it again, after a tick, or the
        seconds after which that will do: every check takes processor time from models that compute."""
        ...


class Watchdog:
    """Checks every busy object ten times a second, or as seldom as all of them allow, on a daemon thread, which sleeps while there is none
    and ends with the last object."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._changes = Changes()
        self._called = False
        self._thread: threading.Thread | None = None

    def wake(self, watched: Watched) -> None:
        """Start to check ``watched``, which has become busy, or is to be checked sooner than it said; within a tick."""
        with self._changes.lock:
            self._watched.add(watched)
            self._called = True
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="llmasos-watchdog", daemon=True)
                self._thread = thread
                try:
                    thread.start()
                except BaseException:  # no thread is to be had, or a signal's handler raised: the next one that becomes busy starts another
                    self._thread = None
                    raise
            self._changes.tell()

    def forget(self, watched: Watched) -> None:
        """Remove ``watched``, which was closed; the thread ends with the last one."""
        with self._changes.lock:
            self._watched.discard(watched)
            thread = None if self._watched else self._thread
            self._changes.tell()
        if thread is not None and thread is not threading.current_thread():
            thread.join(10 * TICK)

    def _run(self) -> None:
        while True:
            with self._changes.lock:
                if self._thread is not threading.current_thread():
                    return  # its start was interrupted
                if not self._watched:
                    self._thread = None
                    return
                self._called = False
                watched = list(self._watched)
            pause = min(map(self._look, watched), default=math.inf)
            busy = pause < math.inf
            del watched  # nothing is kept alive for being watched
            called = pause <= TICK
            if not called:
                called = self._changes.wait_for(lambda: self._called or not self._watched, pause if busy else None, struck=False)
            if busy and called:  # a whole tick, even where another object becomes busy meanwhile: some count these
                self._changes.wait_for(lambda: not self._watched, TICK, struck=False)

    @staticmethod
    def _look(watched: Watched) -> float:
        """The seconds after which it is to be checked again; ``math.inf``: once it is busy."""
        try:
            again = watched.look(time.monotonic())
        except Exception:
            _log.exception("The watchdog failed to look at %r.", watched)
            return TICK
        return math.inf if again is False else TICK if again is True else again


_watchdog = Watchdog()


def watchdog() -> Watchdog:
    """The watchdog of this process."""
    return _watchdog


def _after_fork_in_child() -> None:
    """In a forked child: the watchdog's thread exists in the parent only."""
    global _watchdog
    _watchdog = Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""Who notices that a thread does not come back out of a plugin: one thread for all loops of the process."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Final, Protocol

_log = logging.getLogger("llmasos.runtime")

#: Seconds between two looks at what is busy.
TICK: Final = 0.1


class Watch:
    """What a thread is doing, written by it alone and read by the watchdog.

    Attributes:
        since: ``time.monotonic`` seconds when its round began; None while it waits for work.
        calling: label and method of the plugin that it is in.
    """

    __slots__ = ("calling", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self.calling: tuple[str, str] | None = None


class Watched(Protocol):
    """What can be looked at."""

    def look(self, now: float) -> bool:
        """Do what is due at ``now`` (``time.monotonic``); whether it wants to be looked at again without being asked."""
        ...


class Watchdog:
    """Looks at everything that is busy, ten times a second, on a daemon thread; sleeps while nothing is, and ends with the last."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._changed = threading.Condition(threading.Lock())
        self._called = False
        self._thread: threading.Thread | None = None

    def wake(self, watched: Watched) -> None:
        """``watched`` became busy."""
        with self._changed:
            self._watched.add(watched)
            self._called = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llmasos-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, watched: Watched) -> None:
        """``watched`` was closed; the thread ends with the last one."""
        with self._changed:
            self._watched.discard(watched)
            thread = None if self._watched else self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(10 * TICK)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watched:
                    self._thread = None
                    return
                self._called = False
                watched = list(self._watched)
            busy = [each for each in watched if self._look(each)]
            again = bool(busy)
            del watched, busy  # nothing is kept alive for being watched
            with self._changed:
                if again:
                    self._changed.wait(TICK)
                while not again and not self._called and self._watched:
                    self._changed.wait()

    @staticmethod
    def _look(watched: Watched) -> bool:
        try:
            return watched.look(time.monotonic())
        except Exception:
            _log.exception("The watchdog failed to look at %r.", watched)
            return True


_watchdog = Watchdog()


def watchdog() -> Watchdog:
    """That of this process."""
    return _watchdog


def _after_fork_in_child() -> None:
    """Its thread stayed in the parent."""
    global _watchdog
    _watchdog = Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""Waiting for what another thread changes, on threads that an exception may strike anywhere: Ctrl-C the main thread, the end of its bound a
plugin's.

``threading.Condition`` and ``Event`` are unsuitable. An exception that strikes in their own Python code leaves their lock locked for ever.
And a signal that comes just before a wait begins is noticed only when the wait ends, because Python runs a signal's handler between two
instructions of the main thread: Ctrl-C just before a wait without a timeout would have no effect at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

#: Seconds after which every wait looks again, for a signal that came just before it began.
LOOK_SECONDS: Final = 0.5

T = TypeVar("T")


class Changes:
    """A lock, and waiting for what changes under it.

    Take it with ``with changes.lock``: the lock is implemented in C, so that no exception can strike between taking it and the block. It is
    reentrant, because a finalizer that the garbage collector runs may need the lock that its own thread holds. Each waiting thread has a
    queue of its own, whose methods are atomic too.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self._bells: set[SimpleQueue[None]] = set()

    def tell(self) -> None:
        """Have every waiting thread look again. With the lock held."""
        for bell in tuple(self._bells):
            bell.put(None)
            self._bells.discard(bell)

    def wait_for(self, true: Callable[[], bool], seconds: float | None = None, *, struck: bool = True) -> bool:
        """Wait until ``true()``, which is asked with the lock held; False where it is not within ``seconds``. Without the lock held.

        ``struck``: an exception may strike this thread; False for the threads of core's own, which then sleep until they are told.
        """
        end = None if seconds is None else time.monotonic() + seconds
        bell: SimpleQueue[None] = SimpleQueue()
        try:
            while True:
                with self.lock:
                    if true():
                        return True
                    self._bells.add(bell)
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                _next(bell, min(LOOK_SECONDS, LOOK_SECONDS if left is None else left) if struck else left)
        finally:
            with self.lock:
                self._bells.discard(bell)

    def next(self, seconds: float | None = LOOK_SECONDS) -> Callable[[], bool]:
        """With the lock held: a function that waits without it until somebody tells; False where that takes longer than ``seconds``."""
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.add(bell)

        def wait() -> bool:
            try:
                return _next(bell, seconds) is not None
            finally:
                with self.lock:
                    self._bells.discard(bell)

        return wait


def take(queue: SimpleQueue[T]) -> T:
    """The next item of ``queue``, as ``queue.get()``, but no signal goes unnoticed meanwhile."""
    while (found := _next(queue, LOOK_SECONDS)) is None:
        continue
    return found[0]


def _next(queue: SimpleQueue[T], seconds: float | None) -> tuple[T] | None:
    try:
        return (queue.get(timeout=seconds),)
    except Empty:
        return None

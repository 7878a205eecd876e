"""The task that runs, as its requests to models know it: it can be ended from another thread, and tells what models write for it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol

from llmasos_hookspecs import Cancelled


class Held(Protocol):
    """A request that can be ended."""

    def cancel(self) -> None: ...
    def add_done_callback(self, callback: Callable[[], object]) -> None: ...


class TaskScope:
    """One task in progress, whose requests all end when it is ended.

    Attributes:
        written: called with each piece of text that a model writes for the task, and the count of its tokens, on any thread; None: nobody
            listens.
    """

    def __init__(self, written: Callable[[str, int], object] | None = None) -> None:
        self.written = written
        self._lock = threading.Lock()
        self._held: set[Held] = set()
        self._ended = False

    def end(self) -> None:
        """End its requests, now and later; from any thread. Calling it again does nothing."""
        with self._lock:
            self._ended = True
            held, self._held = self._held, set()
        for request in held:
            request.cancel()

    def check(self) -> None:
        """Raise ``Cancelled`` where it was ended."""
        if self._ended:
            raise Cancelled("The task was ended, because nobody waits for its answer any more.")

    def hold(self, requests: Sequence[Held]) -> None:
        """These requests end with the task."""
        with self._lock:
            if not self._ended:
                self._held.update(requests)
        for request in requests:
            request.add_done_callback(functools.partial(self._let_go, request))
            if self._ended:
                request.cancel()

    def _let_go(self, request: Held) -> None:
        with self._lock:
            self._held.discard(request)


_scope: ContextVar[TaskScope | None] = ContextVar("llmasos_task", default=None)


@contextlib.contextmanager
def task_scope(scope: TaskScope) -> Iterator[None]:
    """Let the requests that are sent in the ``with`` block be those of a task. Raises ``Cancelled`` where it was ended before."""
    scope.check()
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def current_task() -> TaskScope | None:
    """The task that runs on this thread; None: there is none that could be ended."""
    return _scope.get()

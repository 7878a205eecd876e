"""Wakes what waits for a model: once for each step of its engine, however many answers it reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

Wake = Callable[[], object]


class Reader(Protocol):
    """What is woken: an asyncio event loop, or a replica's connection to its parent."""

    def call_soon_threadsafe(self, callback: Callable[[Sequence[Wake]], object], wakes: Sequence[Wake], /) -> Any:
        """Have ``callback(wakes)`` called; from any thread. Raises ``RuntimeError`` where the reader has ended."""
        ...


class Wakeups:
    """Posts calls to readers, from any thread.

    ``call_soon_threadsafe`` writes to a pipe and makes an event loop poll: 64 answers that one event loop reads would cost it 64 of them a
    step. While a thread delivers a step, its calls are collected, and each reader gets those that are its own at once.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._collected: dict[int, dict[Reader, list[Wake]]] = {}

    def post(self, reader: Reader, wake: Wake) -> None:
        """Have ``reader`` call ``wake``: at once, or where this thread delivers a step, at its end."""
        if threading.get_ident() in self._collected:  # which this thread alone changes
            with self._lock:
                self._collected[threading.get_ident()].setdefault(reader, []).append(wake)
        else:
            _post(reader, (wake,))

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Collect what this thread posts, and post it at the end of the ``with`` block."""
        thread = threading.get_ident()
        with self._lock:
            self._collected[thread] = {}
        try:
            yield
        finally:
            with self._lock:
                last = self._collected.pop(thread)
            _post_all(last)

    def flush(self) -> None:
        """Post what was collected; from any thread, where one that delivers hangs in a plugin."""
        with self._lock:
            collected = list(self._collected.values())
            self._collected = {thread: {} for thread in self._collected}
        for wakes in collected:
            _post_all(wakes)


def _post_all(collected: dict[Reader, list[Wake]]) -> None:
    for reader, wakes in collected.items():
        _post(reader, wakes)


def _post(reader: Reader, wakes: Sequence[Wake]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has been closed meanwhile
        reader.call_soon_threadsafe(_call, wakes)


def _call(wakes: Sequence[Wake]) -> None:
    for wake in wakes:
        wake()

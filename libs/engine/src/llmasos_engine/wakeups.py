"""Wakes what waits for a model: once for each step of its engine, however many answers it reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
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
    step. In a ``with`` block over the wakeups, in which a thread delivers a step, what it posts is collected; at the end of the block each
    reader gets at once what is its own.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._collected: dict[int, dict[Reader, list[Wake]]] = {}  # by thread that delivers

    def post(self, reader: Reader, wake: Wake) -> None:
        """Have ``reader`` call ``wake``: at once, or at the end of this thread's ``with`` block."""
        collected = self._collected.get(threading.get_ident())
        if collected is None:
            _post(reader, (wake,))
        elif (wakes := collected.get(reader)) is None:
            collected[reader] = [wake]
        else:  # each of these without a lock, since it is done for each token
            wakes.append(wake)

    def __enter__(self) -> None:
        self._collected.setdefault(threading.get_ident(), {})

    def __exit__(self, *_: object) -> None:
        collected = self._collected.pop(threading.get_ident(), {})
        if collected:
            self._post_all(collected)

    def flush(self) -> None:
        """Post what was collected; from any thread, where one that delivers hangs in a plugin."""
        for collected in self._collected.copy().values():
            self._post_all(collected)

    def _post_all(self, collected: dict[Reader, list[Wake]]) -> None:
        for reader, wakes in collected.copy().items():
            with self._lock:  # what one thread posts another does not
                some = wakes[:]
                del wakes[: len(some)]  # the thread that delivers may have appended to it in between
            if some:
                _post(reader, some)


def _post(reader: Reader, wakes: Sequence[Wake]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has been closed meanwhile
        reader.call_soon_threadsafe(_call, wakes)


def _call(wakes: Sequence[Wake]) -> None:
    for wake in wakes:
        wake()

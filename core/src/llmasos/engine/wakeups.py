"""Wakes the event loops that wait for a model: once for each step of its engine, however many answers they read."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

Wake = Callable[[], object]


class Wakeups:
    """Posts calls to event loops, from any thread.

    ``call_soon_threadsafe`` writes to a pipe and makes the event loop poll: 64 answers that one event loop reads would cost it 64 of them a
    step. While the engine's loop delivers a step, its calls are collected, and each event loop gets those that are its own at once.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._deliverer: int | None = None
        self._collected: dict[asyncio.AbstractEventLoop, list[Wake]] = {}

    def post(self, loop: asyncio.AbstractEventLoop, wake: Wake) -> None:
        """Have ``loop`` call ``wake``: at once, or where this thread delivers a step, at its end."""
        if self._deliverer == threading.get_ident():
            with self._lock:
                self._collected.setdefault(loop, []).append(wake)
        else:
            _post(loop, (wake,))

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Collect what this thread posts, and post it at the end of the ``with`` block."""
        self._deliverer = threading.get_ident()
        try:
            yield
        finally:
            self._deliverer = None
            self.flush()

    def flush(self) -> None:
        """Post what was collected; from any thread, where the one that delivers hangs in a plugin."""
        if not self._collected:
            return
        with self._lock:
            collected, self._collected = self._collected, {}
        for loop, wakes in collected.items():
            _post(loop, wakes)


def _post(loop: asyncio.AbstractEventLoop, wakes: Sequence[Wake]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has been closed meanwhile
        loop.call_soon_threadsafe(_call, wakes)


def _call(wakes: Sequence[Wake]) -> None:
    for wake in wakes:
        wake()

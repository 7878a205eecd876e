"""Results that threads hand to event loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

R = TypeVar("R")


class Handover(Generic[R]):
    """One result on its way from a thread to a task.

    Where the task is cancelled meanwhile, or its event loop closed, the result is given up, so that nothing that it holds is held for ever.
    """

    def __init__(self, give_up: Callable[[R], object]) -> None:
        """For the running event loop. ``give_up`` gets a result that nobody takes, on any thread."""
        import asyncio  # takes 40 ms, which only who awaits pays

        self._give_up: Final = give_up
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._results: list[R] = []
        self._error: BaseException | None = None
        self._left = False

    def succeed(self, result: R) -> None:
        """The result, from any thread."""
        with self._lock:
            self._results.append(result)
        if self._left:
            self._leave()
        else:
            self._tell()

    def fail(self, error: BaseException) -> None:
        """There is no result. An error that nobody waits for is told to nobody."""
        self._error = error
        self._tell()

    async def take(self) -> R:
        """The result, once it is there; or raises its error."""
        import asyncio

        try:
            await self._arrived
        except asyncio.CancelledError:
            self._leave()
            raise
        if self._error is not None:
            raise self._error
        return self._results.pop()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the event loop has been closed meanwhile
            self._leave()

    def _wake(self) -> None:
        if not self._arrived.done():
            self._arrived.set_result(None)

    def _leave(self) -> None:
        with self._lock:
            self._left = True
            results, self._results = self._results, []
        for result in results:
            self._give_up(result)

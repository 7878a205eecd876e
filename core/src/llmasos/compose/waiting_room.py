"""Requests of event loops that wait for a model or for memory, each on a thread of its own; as many as may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from llmasos_hookspecs import Rejected

R = TypeVar("R")

#: Seconds after which a client may come again that was not let in.
_RETRY: Final = 1.0


class WaitingRoom:
    """Calls functions that may wait, for event loops.

    A loop's executor has a few threads, and other work of the program would wait in it behind requests for a model that is being loaded.
    These threads only wait, so each request has one.
    """

    def __init__(self, seats: int) -> None:
        """``seats``: calls at once."""
        self._seats = seats
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Calls in progress, those given up included."""
        return self._taken

    async def call(self, function: Callable[[], R], give_up: Callable[[R], None]) -> R:
        """The result of ``function``. Where the awaiting task is cancelled meanwhile, ``give_up`` gets the result once there is one.

        Raises:
            Rejected: as many calls are in progress as may be.
        """
        self._enter()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def run() -> None:
            try:
                result = function()
            except BaseException as error:
                outcome, unwanted = _failing(future, error), _nothing
            else:
                outcome, unwanted = _succeeding(future, result), lambda: give_up(result)
            self._leave()

            def hand_over() -> None:
                if future.cancelled():
                    unwanted()
                else:
                    outcome()

            try:
                loop.call_soon_threadsafe(hand_over)
            except RuntimeError:  # the event loop has been closed meanwhile
                unwanted()

        try:
            threading.Thread(target=run, name="llmasos-waiting", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._leave()
            raise Rejected("This machine has no thread left for the request; send it again later.", _RETRY) from None
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:  # cancelled between the result and its arrival
                give_up(future.result())
            raise

    def _enter(self) -> None:
        with self._lock:
            if self._taken >= self._seats:
                raise Rejected(
                    f"{self._taken} requests wait for a model or for memory, and no more may (resources.max_waiting); send it again later.",
                    _RETRY,
                )
            self._taken += 1

    def _leave(self) -> None:
        with self._lock:
            self._taken -= 1


def _succeeding(future: asyncio.Future[R], result: R) -> Callable[[], None]:
    return lambda: future.set_result(result)


def _failing(future: asyncio.Future[R], error: BaseException) -> Callable[[], None]:
    return lambda: future.set_exception(error)


def _nothing() -> None:
    """An error that nobody waits for is told to nobody."""

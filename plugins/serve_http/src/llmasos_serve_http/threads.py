"""Threads for calls that may wait, apart from those of the event loop's executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from llmasos_hookspecs import Rejected

R = TypeVar("R")


class Threads:
    """A few threads, and how many calls may wait for one."""

    def __init__(self, count: int, waiting: int) -> None:
        self._most: Final = count + waiting
        self._calls = 0
        self._executor = ThreadPoolExecutor(count, "llmasos-http")

    async def call(self, function: Callable[[], R]) -> R:
        """The result of ``function``. On the event loop. Raises ``Rejected`` where too many calls wait."""
        if self._calls >= self._most:
            raise Rejected("Too many requests wait for an answer at once; send it again later.", 1.0)
        self._calls += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, function)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)  # a call that was begun counts until it has ended, also where no client waits for it any more

    def close(self) -> None:
        """Begin no further call."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _done(self, future: asyncio.Future[R]) -> None:
        self._calls -= 1
        if not future.cancelled():
            future.exception()

"""Keeps a stream open through silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from llmasos_serve_http.call import Call


class Keeper:
    """Sends the parts of a stream, and a comment after each silence."""

    def __init__(self, call: Call, comment: bytes, every: float) -> None:
        self._call = call
        self._comment = comment
        self._every = every
        self._sent = time.monotonic()
        self._sending = False
        self._task = asyncio.create_task(self._keep()) if comment else None

    async def send(self, part: bytes) -> None:
        if (rest := self.begin(part)) is not None:
            await rest

    def begin(self, part: bytes) -> Awaitable[None] | None:
        """``send``, for parts that are many: None where it was sent, else what is to be awaited."""
        rest = self._call.begin_part(part)
        self._sent = time.monotonic()
        return None if rest is None else self._finish(rest)

    async def _finish(self, rest: Awaitable[None]) -> None:
        self._sending = True
        await rest
        self._sending, self._sent = False, time.monotonic()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        while True:
            silent = time.monotonic() - self._sent
            if silent < self._every:
                await asyncio.sleep(self._every - silent)
            elif self._sending:  # the reader is slow, and has more to read than a comment
                await asyncio.sleep(self._every)
            else:
                await self._call.part(self._comment)
                self._sent = time.monotonic()

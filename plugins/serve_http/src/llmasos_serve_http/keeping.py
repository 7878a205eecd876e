"""Keeps a stream open through silence."""

from __future__ import annotations

import asyncio
import time

from llmasos_serve_http.call import Call


class Keeper:
    """Sends the parts of a stream, and a comment after each silence."""

    def __init__(self, call: Call, comment: bytes, every: float) -> None:
        self._call = call
        self._comment = comment
        self._every = every
        self._sent = time.monotonic()
        self._sending = asyncio.Lock()
        self._task = asyncio.create_task(self._keep()) if comment else None

    async def send(self, part: bytes) -> None:
        async with self._sending:  # else a comment could come within a part that waits for a slow reader
            await self._call.part(part)
        self._sent = time.monotonic()
        # Neither an answer that is ahead of its reader nor a socket with room ever waits. Others would stand still, and a connection that
        # was lost would be written to until the answer's end; after five such writes asyncio logs a warning for each.
        await asyncio.sleep(0)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        while True:
            silent = time.monotonic() - self._sent
            if silent >= self._every:
                await self.send(self._comment)
            else:
                await asyncio.sleep(self._every - silent)

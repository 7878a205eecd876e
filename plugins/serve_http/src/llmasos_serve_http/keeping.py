"""Keeps a stream open through silence."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Final

from llmasos_serve_http.call import Call

#: Headers of a stream: no proxy is to keep it back.
_HEADERS: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))


async def begin_stream(call: Call, media_type: str) -> None:
    """Begin a stream, where it has not begun."""
    if not call.started:
        await call.begin(media_type, headers=_HEADERS)


async def send_parts(call: Call, parts: AsyncGenerator[bytes, None], media_type: str, comment: bytes, every: float) -> None:
    """Send the parts of a stream as they come, and ``comment`` after ``every`` seconds of silence. The stream begins with the first part or
    the first comment, so that an error before is a status."""
    async with contextlib.aclosing(parts):
        first = asyncio.ensure_future(anext(parts, None))
        try:
            while not (await asyncio.wait((first,), timeout=every))[0]:
                await begin_stream(call, media_type)
                await call.part(comment)
            part = await first
        finally:
            first.cancel()
            await asyncio.wait((first,))  # an iterator that still runs could not be closed
        await begin_stream(call, media_type)
        keeper = Keeper(call, comment, every)
        try:
            while part is not None:
                if part:
                    await keeper.send(part)
                part = await anext(parts, None)
        finally:
            keeper.close()


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

"""Keeps a stream open through silence."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
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
    keeper = Keeper(call, media_type, comment, every)
    try:
        async with contextlib.aclosing(parts):
            async for part in parts:
                await begin_stream(call, media_type)
                if part:
                    await keeper.send(part)
    finally:
        keeper.close()
    await begin_stream(call, media_type)


class Keeper:
    """Sends the parts of a stream, and a comment after each silence, also before the first part; the stream then begins with it.

    Attributes:
        news: what a client that waits for the first part is told, as soon as there is some.
    """

    def __init__(self, call: Call, media_type: str, comment: bytes, every: float) -> None:
        self.news: Callable[[], bytes] | None = None
        self._every_news = every
        self._call = call
        self._media_type = media_type
        self._comment = comment
        self._every = every
        self._sent = time.monotonic()
        self._sending = False
        self._saying: asyncio.Task[None] | None = None
        # No task of its own: a stream that is never silent costs a timer.
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(every, self._look) if comment else None

    def tell(self, news: Callable[[], bytes], every: float) -> None:
        """Look for ``news`` every so many seconds."""
        self.news = news
        self._every_news = every
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(min(every, self._every), self._look)

    async def send(self, part: bytes) -> None:
        if (rest := self.begin(part)) is not None:
            await rest

    def begin(self, part: bytes) -> Awaitable[None] | None:
        """``send``, for parts that are many: None where it was sent, else what is to be awaited."""
        rest = self._call.begin_part(part)
        self._sent = time.monotonic()
        return None if rest is None else self._finish(rest)

    def close(self) -> None:
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._saying is not None:
            self._saying.cancel()

    async def _finish(self, rest: Awaitable[None]) -> None:
        self._sending = True
        await rest
        self._sending, self._sent = False, time.monotonic()

    def _look(self) -> None:
        """Say something where it is time."""
        silent = time.monotonic() - self._sent
        wait = self._every - silent
        if self._sending:  # the reader is slow, and has more to read than a comment
            wait = self._every
        elif (news := self.news() if self.news is not None else b"") or (wait <= 0 and self._comment):
            self._saying = self._loop.create_task(self._finish(self._say(news or self._comment)))
            wait = self._every
        if self.news is not None:
            wait = min(wait, self._every_news)
        self._timer = self._loop.call_later(max(wait, 0.0), self._look)

    async def _say(self, part: bytes) -> None:
        await begin_stream(self._call, self._media_type)
        await self._call.part(part)

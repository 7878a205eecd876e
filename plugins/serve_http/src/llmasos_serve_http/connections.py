"""Connections whose requests must begin in time: uvicorn by itself lets a client that sends nothing stay for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import Any, ClassVar, Final

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Name in an ASGI scope of a function that sends a part of a body, and returns what is to be awaited where the client does not read; where
#: it is missing, ``send`` sends parts.
PARTS: Final = "llmasos.part"


class TimedProtocol(H11Protocol):
    """HTTP/1.1. A connection is closed where the headers of its next request do not arrive in time.

    Attributes:
        seconds: from where the connection is made, or the answer before has ended.
    """

    seconds: ClassVar[float]
    app: Any

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        self._timer: asyncio.TimerHandle | None = None
        # asyncio does so only where the listening socket names its protocol. Without it each part of an answer but the first waits until
        # the client acknowledges the one before, which it puts off for up to 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._application, self.app = self.app, self._with_parts
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    async def _with_parts(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell the application how it can send parts of a body for less."""
        if scope["http_version"] == "1.1" and scope["method"] != "HEAD":
            scope[PARTS] = self._part
        await self._application(scope, receive, send)

    def _part(self, body: bytes) -> Awaitable[None] | None:
        """Send a part of a body that is sent in chunks, because its length was not said; where the client does not read, once it does.

        As the cycle's ``send`` does, but without h11, which has no state that a part changes: its events, and the messages of ASGI, take
        4 us a part, of the 14 us that a streamed token then takes (``make bench-serve`` measures it).
        """
        if self.flow.write_paused and not self.cycle.disconnected:
            return self._part_once_read(body)
        self._chunk(body)
        return None

    async def _part_once_read(self, body: bytes) -> None:
        await self.flow.drain()
        self._chunk(body)

    def _chunk(self, body: bytes) -> None:
        if not self.cycle.disconnected and body:  # an empty chunk would be the last one
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def _watch(self) -> None:
        """Run the timer while the client is expected to send headers, from the first moment of that."""
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._late)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def timed(seconds: float) -> type[TimedProtocol]:
    """The protocol with that many seconds for headers."""
    return type("TimedProtocol", (TimedProtocol,), {"seconds": seconds})

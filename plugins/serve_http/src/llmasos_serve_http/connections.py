"""Connections whose requests must begin in time: uvicorn by itself lets a client that sends nothing stay for ever."""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """HTTP/1.1. A connection is closed where the headers of its next request do not arrive in time.

    Attributes:
        seconds: from where the connection is made, or the answer before has ended.
    """

    seconds: ClassVar[float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        self._timer: asyncio.TimerHandle | None = None
        # asyncio does so only where the listening socket names its protocol. Without it each part of an answer but the first waits until
        # the client acknowledges the one before, which it puts off for up to 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
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

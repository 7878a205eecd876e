"""One request on a connection, and its answer."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Iterable
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Scope

_log = logging.getLogger("llmasos.serve_http")

#: Name of an exchange in its ASGI scope. What it can do beside ``receive`` and ``send`` takes fewer tasks and messages; where it is
#: missing, those two do.
EXCHANGE: Final = "llmasos.exchange"
#: Bytes of a body that may wait for its reader before no more are read.
HIGH_WATER: Final = 1 << 16

_STATUS_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_GONE: Final[Message] = {"type": "http.disconnect"}


class Carrier(Protocol):
    """What carries an exchange: a connection."""

    write_paused: bool
    read_paused: bool

    def write(self, data: bytes) -> None:
        """Send bytes, within this turn of the event loop."""
        ...

    async def drained(self) -> None:
        """Wait until the client reads, where it does not."""
        ...

    def pace(self) -> None:
        """Read on, or no more, as what waits for a reader asks for."""
        ...

    def answered(self) -> None:
        """The answer is complete."""
        ...

    def unanswered(self) -> None:
        """The application is done, and the answer is not complete."""
        ...

    def default_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """Headers of every answer."""
        ...


class Exchange:
    """A request and its answer: what ASGI calls ``receive`` and ``send``, and shorter ways for what most answers do.

    The head of an answer is sent with the first part of its body where that comes at once, and the last part with what ends it: each write
    is a call of the system, and wakes the client.

    Attributes:
        scope: of ASGI.
        waiting: bytes of the body that nobody has read.
        whole: the body has come to its end.
        broken: it never will, because what came is no HTTP.
        gone: the client is.
        started: the application has said how the answer begins.
        complete: the answer is.
        keep_alive: the connection can be used again after it.
    """

    __slots__ = (
        "_awaited", "_body", "_carrier", "_chunked", "_delivered", "_expects", "_flows", "_head", "_leaving", "_left", "_silent", "broken",
        "complete", "gone", "keep_alive", "scope", "started", "waiting", "whole",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, scope: Scope, *, keep_alive: bool, expects: bool) -> None:
        """``expects``: the client sends its body once it is told to go on."""
        self.scope: Final = scope
        self.keep_alive = keep_alive
        self.waiting = 0
        self.whole = self.broken = self.gone = self.started = self.complete = False
        self._carrier = carrier
        self._expects = expects
        self._body: list[bytes] = []
        self._delivered = False  # the end of the body was
        self._awaited: asyncio.Event | None = None
        self._leaving: list[asyncio.Future[None]] = []
        self._head = b""
        self._chunked = False
        self._flows = False  # the head was sent, and chunks follow it
        self._silent = False  # the answer has no body, whatever the application sends
        self._left: int | None = None  # bytes of the answer's body that are still to come, where their number was said
        scope[EXCHANGE] = self

    # The connection's side

    def arrived(self, part: bytes) -> None:
        """A part of the body."""
        self._expects = False
        if not self.complete:  # else nobody will read it
            self._body.append(part)
            self.waiting += len(part)
            self._wake()

    def ended(self) -> None:
        """The body has come to its end."""
        self.whole = True
        self._expects = False
        self._wake()

    def fail(self) -> None:
        """What came instead of the rest of the body is no HTTP."""
        self.broken = True
        self.keep_alive = False
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        self.gone = True
        self._wake()
        for future in self._leaving:
            if not future.done():
                future.set_result(None)

    async def run(self, app: ASGIApp) -> None:
        """Have an application answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            _log.error("Request %s failed.", self.scope.get("llmasos.id", ""), exc_info=error)
        if not self.complete and not self.gone:
            self._flush()
            self._carrier.unanswered()

    # The application's side

    async def receive(self) -> Message:
        """The next part of the body, as ASGI has it; after the last, that the client has gone."""
        if self._expects and not self.started:
            self._carrier.write(_CONTINUE)
        self._expects = False
        while not self._over and not self._body and (not self.whole or self._delivered):
            if self._awaited is None:
                self._awaited = asyncio.Event()
            await self._awaited.wait()  # several tasks of an application may wait
        if self._over:
            return _GONE
        return {"type": "http.request", "body": self._taken(), "more_body": not self.whole}

    def body(self) -> bytes | None:
        """The whole body, where it has come; None: it must be received."""
        return self._taken() if self.whole and not self._delivered and not self._over else None

    def leaving(self) -> asyncio.Future[None]:
        """Is done once the client has gone."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.gone:
            future.set_result(None)
        else:
            self._leaving.append(future)
        return future

    async def send(self, message: Message) -> None:
        """A message of ASGI."""
        if message["type"] == "http.response.start":
            self.begin(message["status"], message.get("headers", ()))
        elif (rest := self.part(message.get("body", b""), more=message.get("more_body", False))) is not None:
            await rest

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin the answer; its head is sent with the first part."""
        if self.started:
            raise RuntimeError("The answer has begun already.")
        self.started = True
        if self._expects:  # the client may send the body that it was not asked for, or the next request
            self.keep_alive = False
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        chunked = status >= 200 and status not in (204, 304)
        self._silent = self.scope["method"] == "HEAD" or not chunked
        for name, value in (*self._carrier.default_headers(), *headers):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self._left, chunked = int(value), False
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
        if chunked and self.scope["http_version"] == "1.1":
            self._chunked = not self._silent
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            self.started = False
            raise RuntimeError("A header of the answer holds the end of a line.")
        self._head = head + b"\r\n"
        asyncio.get_running_loop().call_soon(self._flush)

    def part(self, body: bytes, *, more: bool = True) -> Awaitable[None] | None:
        """A part of the answer's body; ``more``: it is not the last. None where it was sent; where the client does not read, what is to be
        awaited."""
        if self._carrier.write_paused and not self.gone:
            return self._part_once_read(body, more)
        if self._flows and body and more and not self.gone:
            self._carrier.write(b"%x\r\n%b\r\n" % (len(body), body))
        else:
            self._write(body, more)
        return None

    async def _part_once_read(self, body: bytes, more: bool) -> None:
        await self._carrier.drained()
        self._write(body, more)

    def _write(self, body: bytes, more: bool) -> None:
        if self.gone:
            return
        if not self.started or self.complete:
            raise RuntimeError("A part of an answer came before its beginning or after its end.")
        if self._silent:
            body = b""
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("The answer's body has another length than its headers say.")
        head, self._head = self._head, b""
        if not self._chunked:
            data = head + body
        elif body:  # an empty chunk would be the last one
            data = b"%b%x\r\n%b\r\n%b" % (head, len(body), body, b"" if more else _LAST_CHUNK)
        else:
            data = head if more else head + _LAST_CHUNK
        if data:
            self._carrier.write(data)
        self._flows = self._chunked and more
        if not more:
            self.complete = True
            self._body.clear()
            self.waiting = 0
            self._wake()
            self._carrier.answered()

    def _flush(self) -> None:
        """Send the head of an answer whose first part takes longer."""
        head, self._head = self._head, b""
        if head and not self.gone:
            self._carrier.write(head)

    @property
    def _over(self) -> bool:
        return self.gone or self.broken or self.complete

    def _taken(self) -> bytes:
        found = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self.waiting = 0
        self._delivered = self.whole
        if self._carrier.read_paused:
            self._carrier.pace()
        return found

    def _wake(self) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.set()


def error_answer(status: int, text: bytes) -> bytes:
    """A whole answer with which a connection ends."""
    head = b"%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (
        _STATUS_LINES[status],
        len(text),
    )
    return head + text

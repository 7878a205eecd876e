"""Connections: HTTP/1.1 as llhttp reads it (https://llhttp.org), whose strict form takes nothing that can be read in two ways."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
from collections import deque
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.server import ServerState

from llmasos_serve_http.exchange import HIGH_WATER, Exchange, error_answer
from llmasos_serve_http.outbox import Outbox

_log = logging.getLogger("llmasos.serve_http")

#: Requests that may wait on a connection for the answer to one before them.
_PIPELINED: Final = 16
#: Connections up to which each sends at once: there is nothing to gather.
_FEW: Final = 4
_VERSIONS: Final = frozenset(("1.0", "1.1"))


@functools.lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """The time as HTTP writes it."""
    return formatdate(second, usegmt=True).encode()


class _Refused(Exception):
    """What came is HTTP for the parser, and not for this server; the parser makes an error of its own of it."""


class Connection(asyncio.Protocol):
    """One connection, with one request after another. It is closed where the headers of its next request do not arrive in time: a client
    that sends nothing could else stay for ever.

    Attributes:
        seconds: for headers, from where the connection is made, or the answer before has ended.
        max_headers: bytes of a request's line and headers, of its trailers, and of what frames each of its chunks.
        outbox: gathers what connections send.
        transport: the socket's.
        write_paused: the client does not read.
        read_paused: what it sent waits to be read.
    """

    seconds: ClassVar[float]
    max_headers: ClassVar[int]
    outbox: ClassVar[Outbox]
    transport: asyncio.Transport

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if not config.loaded:
            config.load()
        self.write_paused = self.read_paused = False
        self._app = config.loaded_app
        self._state = server_state
        self._loop = _loop or asyncio.get_event_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._scheme = "http"
        self._drained = asyncio.Event()
        # What is being read
        self._reads = True  # what comes is given to the parser
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts = self._size = 0
        self._expects = False
        self._upgrades: tuple[bytes, bytes] | None = None  # method and version of a request that asks for another protocol
        self._malformed = False  # what came is to be answered with 400
        self._unparsed = 0
        self._arriving: Exchange | None = None  # whose body is not at its end
        # What is being answered
        self._answered: Exchange | None = None
        self._queued: deque[Exchange] = deque()
        # Since when the headers of the next request are waited for
        self._idle: float | None = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # sockets have no other
        self.transport = transport
        # asyncio does so only where the listening socket names its protocol. Without it each part of an answer but the first waits until
        # the client acknowledges the one before, which it puts off for up to 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client, self._server = (_address(transport.get_extra_info(name)) for name in ("peername", "sockname"))
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn knows its own protocols, and asks only for what this one has
        self._timer = self._loop.call_later(self.seconds, self._late)

    def connection_lost(self, error: Exception | None) -> None:
        self._state.connections.discard(self)
        self.outbox.parts.pop(self.transport, None)
        if self._timer is not None:
            self._timer.cancel()
        self._reads = False
        self._parser = None  # which holds this connection
        self.resume_writing()
        for exchange in self._exchanges():
            exchange.leave()

    def data_received(self, data: bytes) -> None:
        if not self._reads:
            return
        self._unparsed += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse()
        else:
            if self._unparsed > self.max_headers:
                self._refuse()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._drained.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._drained.set()

    # uvicorn's side

    def shutdown(self) -> None:
        """Close the connection once it answers nothing."""
        if self._answered is None:
            self._close()
        else:
            self._answered.keep_alive = False

    def abort(self) -> None:
        """Close the connection where its client does not read an answer, so that none waits for ever."""
        if self._answered is not None:
            self.transport.abort()

    # The parser's side

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._hosts = self._size = 0
        self._expects = False

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._grow(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        if self._arriving is not None:  # a trailer, which nothing here reads: whatever a header permits has been decided
            return
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"host":
            self._hosts += 1
        elif name == b"expect":
            self._expects = value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or self._parser.get_http_version() != "1.1"):
            raise _Refused
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._unparsed = self._size = 0
        parser = self._parser
        version, method = parser.get_http_version(), parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            self._upgrades = method, version.encode()
            return
        if version not in _VERSIONS or self._hosts > 1 or (not self._hosts and version == "1.1") or len(self._queued) >= _PIPELINED:
            raise _Refused
        path, _, query = self._target.partition(b"?")
        text = path.decode("ascii")
        exchange = Exchange(
            self,
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": version,
                "server": self._server,
                "client": self._client,
                "scheme": self._scheme,
                "method": method.decode("ascii"),
                "root_path": "",
                "path": unquote(text) if "%" in text else text,
                "raw_path": path,
                "query_string": query,
                "headers": self._headers,
                "state": {},
            },
            keep_alive=version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade(),
            expects=self._expects and version == "1.1",
        )
        self._arriving = exchange
        self._idle = None
        if self._answered is None:
            self._answer(exchange)
        else:
            self._queued.append(exchange)

    def on_chunk_header(self) -> None:
        self._unparsed = 0

    def on_body(self, part: bytes) -> None:
        self._unparsed = 0
        exchange = self._arriving
        if exchange is not None:
            exchange.arrived(part)
            if self._queued or exchange.waiting > HIGH_WATER:
                self.pace()

    def on_message_complete(self) -> None:
        self._unparsed = 0
        exchange, self._arriving = self._arriving, None
        if exchange is not None:
            exchange.ended()

    # The exchanges' side: implements ``Carrier``

    def write(self, data: bytes) -> None:
        if len(self._state.connections) > _FEW or self.outbox.parts:
            self.outbox.put(self.transport, data)
        else:
            self.transport.write(data)

    async def drained(self) -> None:
        await self._drained.wait()

    def pace(self) -> None:
        """A client that leaves is noticed only while its connection is read, so that stops for nothing but much that waits."""
        paused = sum(each.waiting for each in self._exchanges()) > HIGH_WATER
        if paused != self.read_paused and not self.transport.is_closing():
            self.read_paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def default_headers(self) -> Iterable[tuple[bytes, bytes]]:
        return ((b"date", _date(int(time.time()))),)

    def answered(self) -> None:
        self._state.total_requests += 1
        exchange, self._answered = self._answered, None
        if self.transport.is_closing():
            return
        if exchange is None or not exchange.keep_alive:
            self._close()
        elif self._queued:
            self._answer(self._queued.popleft())
        elif self._malformed:
            self._end(400)
        else:
            self._idle = self._loop.time()
        if self.read_paused:
            self.pace()

    def unanswered(self) -> None:
        exchange = self._answered
        if exchange is None or exchange.started:
            self._close()  # that its answer is cut is all that a client can be told
        else:
            self._end(400 if exchange.broken else 500)

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._upgrades is None:  # CONNECT, which is answered; what follows is none of HTTP's
                    self._reads = False
                    return
                # The parser takes what follows for another protocol, the body too. Java's client asks for HTTP/2 with each first request.
                data = self._without_upgrade(*self._upgrades) + data[upgrade.args[0] :]
                self._parser, self._upgrades = httptools.HttpRequestParser(self), None
            else:
                return

    def _without_upgrade(self, method: bytes, version: bytes) -> bytes:
        """The head of the request that asks for another protocol, as one that does not."""
        lines = [b"%b %b HTTP/%b" % (method, self._target, version)]
        for name, value in self._headers:
            if name == b"connection":
                if b"close" in [token.strip() for token in value.lower().split(b",")]:
                    lines.append(b"connection: close")
            elif name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _answer(self, exchange: Exchange) -> None:
        self._answered = exchange
        task = self._loop.create_task(exchange.run(self._app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _refuse(self) -> None:
        """Read nothing more: what came is no HTTP. What came before is answered, and then that is."""
        self._reads = False
        _log.info("A client sent what is no HTTP/1.1.")
        if self._arriving is not None:
            self._arriving.fail()
        elif self._answered is not None:
            self._malformed = True
        else:
            self._end(400)

    def _end(self, status: int) -> None:
        self.write(error_answer(status, _SENTENCES[status]))
        self._close()

    def _close(self) -> None:
        """Once what was written is sent."""
        self.outbox.flush(self.transport)
        self.transport.close()

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self.max_headers:
            raise _Refused

    def _exchanges(self) -> list[Exchange]:
        """Those that are not answered; one of them may be the one whose body arrives."""
        return [*self._queued] if self._answered is None else [self._answered, *self._queued]

    def _late(self) -> None:
        """One timer for all requests of a connection, which looks whether there is still time when it would be over."""
        left = self.seconds if self._idle is None else self._idle + self.seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._late)
        else:
            self._timer = None
            self._close()


_SENTENCES: Final = {400: b"Invalid HTTP request received.", 500: b"Internal Server Error"}


def _address(found: Any) -> tuple[str, int] | None:
    """Host and port of one end; None where the system does not know it any more."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


def protocol(seconds: float, max_headers: int) -> type[Connection]:
    """The protocol of one server, with that many seconds and bytes for headers."""
    return type("Connection", (Connection,), {"seconds": seconds, "max_headers": max_headers, "outbox": Outbox()})

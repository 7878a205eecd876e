"""The server: uvicorn on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Final

import uvicorn
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from llmasos_hookspecs import ConfigError, Endpoint, ResourceError, Runtime
from llmasos_hookspecs.guarding.changes import take
from llmasos_serve_http.application import Application
from llmasos_serve_http.connections import Connection, protocol
from llmasos_serve_http.metrics import Metrics
from llmasos_serve_http.options import Options
from llmasos_serve_http.routes import Service
from llmasos_serve_http.tls import check_files, load_files, tls_context

_log = logging.getLogger("llmasos.serve_http")

#: Seconds in which clients of a server that is stopped may read their last words.
_LAST_WORDS: Final = 2.0
_POLL: Final = 0.02
#: Options that are the listening socket's, or its connections'.
_FIXED: Final = ("host", "port", "max_headers", "header_timeout")


class HttpServer:
    """Listens, and serves on one thread with an event loop.

    Attributes:
        endpoints: where it listens.
    """

    def __init__(self, runtime: Runtime, options: Options, more: Callable[[Service], Iterable[BaseRoute]] = lambda _: ()) -> None:
        """``more``: makes further routes, for a plugin built on this one. Raises ``PluginError`` where one declares no permission."""
        self.endpoints: Sequence[Endpoint] = [_endpoint(options, options.port)]
        check_files(options)
        self._runtime = runtime
        self._options = options
        self._more = more
        self._metrics = Metrics()
        self._application = Application(runtime, options, more, self._metrics)
        self._deafen = runtime.listen(self._metrics)
        self._retired: list[Application] = []
        self._tls: ssl.SSLContext | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """What there is."""
        return self._application.routes

    def start(self) -> None:
        """Listen; returns once clients can connect. Raises ``ResourceError``."""
        self._tls = tls = None if not self._options.tls_certificate else tls_context(self._options)
        listener = self._listener()
        self.endpoints = [_endpoint(self._options, listener.getsockname()[1])]
        config = uvicorn.Config(
            self._answer,
            http=protocol(self._options.header_timeout, self._options.max_headers),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # connections write it
            proxy_headers=False,  # a client's address is where it connects from, whatever its headers say
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )
        self._server = _Server(config)
        started: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(self._server, listener, started), name="llmasos-http", daemon=True)
        self._thread.start()
        take(started)

    def drain(self, seconds: float) -> bool:
        """Refuse what is new, and wait until what was accepted is answered."""
        end = time.monotonic() + seconds
        self._application.gate.closed = True
        while any(each.gate.active for each in self._applications()):
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL)
        return True

    def stop(self) -> None:
        """End what is left, and free the port."""
        self._application.gate.closed = True
        thread, server, self._thread = self._thread, self._server, None
        if thread is not None and server is not None:
            for application in self._applications():
                self._on_loop(application.answering.stop)
            self.drain(_LAST_WORDS)
            self._on_loop(server.end)
            thread.join()
        for application in self._applications():
            application.close()
        self._deafen()

    def reload(self, options: Options) -> None:
        """Use other options from the next request on; requests in progress keep those that they began with. From any thread.

        Raises:
            ConfigError: an option is wrong, or cannot change while the server listens; then nothing changes.
        """
        fixed = [name for name in _FIXED if getattr(options, name) != getattr(self._options, name)]
        if bool(options.tls_certificate) != bool(self._options.tls_certificate):
            fixed.append("tls_certificate")
        if fixed:
            raise ConfigError(f"The server http cannot change {', '.join(fixed)} while it listens; start the program again.")
        check_files(options)
        application = Application(self._runtime, options, self._more, self._metrics)
        if self._tls is not None:
            load_files(self._tls, options)  # connections from now on
        before, self._application, self._options = self._application, application, options
        application.gate.closed = before.gate.closed
        self._retired.append(before)
        threading.Thread(target=self._retire, args=(before,), name="llmasos-http-retire", daemon=True).start()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application.gate(scope, receive, send)

    def _applications(self) -> list[Application]:
        """The one of the options that hold, and those whose last requests are in progress."""
        return [*self._retired, self._application]

    def _retire(self, application: Application) -> None:
        """Close an application once its requests are over."""
        if self._thread is not None:
            passed = threading.Event()
            self._on_loop(passed.set)  # a request that was about to be given to it has been counted then
            passed.wait(_LAST_WORDS)
        while application.gate.active and self._thread is not None:
            time.sleep(_POLL)
        application.close()
        self._retired.remove(application)

    def _serve(self, server: _Server, listener: socket.socket, started: SimpleQueue[None]) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(started.put, None)
            await server.serve(sockets=[listener])

        try:
            asyncio.run(serve())
        except Exception:
            _log.exception("The HTTP server ended.")
        finally:
            started.put(None)
            listener.close()

    def _on_loop(self, call: Callable[[], object]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call)

    def _listener(self) -> socket.socket:
        host, port = self._options.host, self._options.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(f"The server http cannot listen on {host}:{port} ({reason}); choose another host or port.") from error


class _Server(uvicorn.Server):
    """Sleeps until it is to end, where uvicorn's own looks ten times a second, which takes processor time from models that compute."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        """Close the connections of clients that do not read, so that no answer to them waits for ever, and end. On the server's loop."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.abort()
        self._ended.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            asyncio.get_running_loop().remove_reader(listener)
        # asyncio loses a connection that it has accepted where the listener is closed before it has made a transport of it.
        for _ in range(2):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


def _endpoint(options: Options, port: int) -> Endpoint:
    name = options.host.strip("[]")
    scheme = "https" if options.tls_certificate else "http"
    return Endpoint(host=name, port=port, url=f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}")

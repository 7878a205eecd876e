"""Tools of servers that speak the Model Context Protocol (https://modelcontextprotocol.io), over stdio and streamable HTTP."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fnmatch
import functools
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import IO, Any, Final

from llmasos_app_assistant.options import McpOptions
from llmasos_app_assistant.tools.addresses import check_network, secrets_of
from llmasos_app_assistant.tools.signature import as_text
from llmasos_app_assistant.tools.tool import Scope, Tool, ToolError, tool_name
from llmasos_hookspecs import ConfigError, LLMasOSError

#: Seconds that closing waits for a server to end; the library ends its process by then.
_CLOSING: Final = 15.0
#: How often a call looks whether somebody still waits for it, in seconds.
_LOOKING: Final = 0.1
#: Characters of what a server wrote to its standard error that an error tells.
_TOLD: Final = 500
#: Pages of a list of tools that are read.
_PAGES: Final = 100


class McpTools:
    """The tools of one server, which is connected to when they are first asked for, and again where the connection ended.

    The library is asynchronous, so the connection has an event loop on a thread of its own.
    """

    def __init__(self, name: str, options: McpOptions, *, offline: bool = False) -> None:
        """``name``: what the tools' names begin with. Raises ``ConfigError`` where the library is not installed, or ``offline`` forbids the
        address."""
        try:
            import mcp.client.client  # noqa: F401 - whether it is there is told before anything is asked
        except ImportError as error:
            raise ConfigError('Servers of tools need the library mcp; run pip install "llmasos-app-assistant[mcp]".') from error
        if options.url:
            check_network(options.url, f"mcp.{name}.url", offline=offline)
        self._name = name
        self._options = options
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def tools(self) -> Sequence[Tool]:
        """Raises ``LLMasOSError`` where the server cannot be reached, or does not tell."""
        found: list[Any] = []
        for attempt in range(2):  # a server that ended since it was last asked is connected to again
            connection = self._connected()
            try:
                found = connection.wait(_listed(connection.client), self._options.connect_seconds)
                break
            except Exception as error:  # the library's own errors have no class in common
                if self._dropped(connection, error) and not attempt:
                    continue
                raise LLMasOSError(f'The server of tools "{self._name}" does not tell its tools ({_sentence(error)}).') from error
        return [self._tool(each) for each in found if _matches(each.name, self._options.tools)]

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tool(self, found: Any) -> Tool:
        schema = {"type": "object", "properties": {}, **(found.input_schema or {})}
        return Tool(
            name=tool_name(self._name, found.name),
            description=found.description or found.title or found.name,
            parameters=schema,
            run=functools.partial(self._call, found.name),
            repeatable=_matches(found.name, self._options.repeatable),
        )

    def _call(self, name: str, arguments: Mapping[str, Any], scope: Scope) -> str:
        connection = self._connected()
        try:
            result = connection.wait(connection.client.call_tool(name, dict(arguments)), scope.seconds, scope.ended)
        except TimeoutError as error:
            raise ToolError(f"The server {self._name} did not answer in time.") from error
        except Exception as error:  # the library's own errors have no class in common
            lost = self._dropped(connection, error)
            what = "ended during the call, and whether it was done is not known" if lost else f"refused the call ({_sentence(error)})"
            raise ToolError(f"The server {self._name} {what}.") from error
        text = "\n".join(_content(part) for part in result.content)
        if result.is_error:
            raise ToolError(text or "The server says that the call failed.")
        return text or as_text(result.structured_content)

    def _dropped(self, connection: _Connection, error: Exception) -> bool:
        """Whether a connection is lost, which is then closed: the next call makes another."""
        from mcp_types import CONNECTION_CLOSED

        if connection.alive and getattr(error, "code", None) != CONNECTION_CLOSED:
            return False
        with self._lock:
            if self._connection is connection:
                self._connection = None
        connection.close()
        return True

    def _connected(self) -> _Connection:
        with self._lock:
            if self._connection is not None and self._connection.alive:
                return self._connection
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._connection = _Connection(self._name, self._options)
            return self._connection


class _Connection:
    """A client with its event loop.

    Attributes:
        client: the library's.
    """

    def __init__(self, name: str, options: McpOptions) -> None:
        """Raises ``LLMasOSError`` where the server is not ready in time."""
        self._options = options
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"llmasos-mcp-{name}", daemon=True)
        self._thread.start()
        self._ready: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._leave = asyncio.Event()
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        try:
            self.client: Final[Any] = self._ready.result(options.connect_seconds)
        except BaseException as error:
            self._serving.cancel()
            said = self._said()
            self.close()
            if not isinstance(error, Exception):
                raise
            raise LLMasOSError(f'The server of tools "{name}" cannot be reached ({_sentence(error)}){said}.') from error

    @property
    def alive(self) -> bool:
        """Whether it is still connected."""
        return not self._serving.done()

    def wait(self, work: Coroutine[Any, Any, Any], seconds: float, ended: threading.Event | None = None) -> Any:
        """What ``work`` gives on the event loop; it is cancelled after ``seconds``, where ``ended`` is set, and where the connection ends.

        Raises:
            TimeoutError, ConnectionError: it was cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        end = time.monotonic() + seconds
        try:
            while True:
                done, _ = concurrent.futures.wait((future, self._serving), _LOOKING, concurrent.futures.FIRST_COMPLETED)
                if future in done:
                    return future.result()
                if self._serving in done:
                    raise ConnectionError("the connection ended")
                if time.monotonic() >= end or (ended is not None and ended.is_set()):
                    raise TimeoutError(f"no answer within {seconds:g} seconds")
        finally:
            future.cancel()

    def close(self) -> None:
        """Leave the server, whose process ends."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._leave.set)
        concurrent.futures.wait((self._serving,), _CLOSING)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING)
        if not self._thread.is_alive():
            self._loop.close()
        self._errors.close()

    async def _serve(self) -> None:
        """Be connected until it is left. One task enters and leaves the client, as its library requires."""
        try:
            async with self._opened() as client:
                self._ready.set_result(client)
                await self._leave.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error if isinstance(error, Exception) else LLMasOSError("it was given up"))
            elif isinstance(error, Exception):  # the connection broke; the next call connects again
                return
            if not isinstance(error, Exception):
                raise

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        from mcp.client.client import Client

        options = self._options
        if options.url:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            async with (
                httpx2.AsyncClient(headers=secrets_of(options.headers), timeout=None) as http,
                Client(streamable_http_client(options.url, http_client=http)) as client,
            ):
                yield client
            return
        from mcp.client.stdio import StdioServerParameters, stdio_client

        command, *arguments = options.command
        passed = {name: os.environ[name] for name in options.pass_env if name in os.environ}
        parameters = StdioServerParameters(command=command, args=arguments, env={**passed, **options.env})
        async with Client(stdio_client(parameters, errlog=self._errors)) as client:  # type: ignore[arg-type]  # a file of text
            yield client

    def _said(self) -> str:
        """The end of what the server wrote to its standard error."""
        self._errors.seek(0)
        text = " ".join(self._errors.read()[-_TOLD:].split())
        return f"; it says: {text}" if text else ""


async def _listed(client: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return found


def _content(part: Any) -> str:
    """A part of a result as text."""
    if part.type == "text":
        return str(part.text)
    if part.type == "resource" and hasattr(part.resource, "text"):
        return str(part.resource.text)
    if part.type == "resource_link":
        return f"[a link to {part.uri}]"
    return f"[a part of the type {part.type}, which cannot be shown]"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _sentence(error: BaseException) -> str:
    """An error in words; those of several tasks together are told by the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error).rstrip(".") or type(error).__name__

"""One HTTP request as its handler sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llmasos_hookspecs import Principal, Remaining, RequestError
from llmasos_serve_http.dialect import Dialect
from llmasos_serve_http.exchange import EXCHANGE, Exchange
from llmasos_serve_http.failures import Failure, Refused, refused
from llmasos_serve_http.handled import Facts
from llmasos_serve_http.limit_headers import limit_headers
from llmasos_serve_http.options import Options

JSON: Final = "application/json"


class Left(Exception):
    """The client has gone, so nobody is to be told."""


class Call:
    """One request: what it says, who says it, and its answer.

    Attributes:
        headers: of the request.
        path: variables of its address.
        dialect: how it is told of errors.
        id: what client and log call it.
        facts: what is found out about it.
        begin_part: ``part``, for those that are many: None where it was sent, else what is to be awaited.
        started: the answer has begun, so that an error can no longer be its status.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, options: Options, dialect: Dialect) -> None:
        self.headers: Final = Headers(scope=scope)
        self.path: Final[Mapping[str, str]] = scope.get("path_params", {})
        self.client: Final = scope.get("client")
        self.id: Final[str] = scope["llmasos.id"]
        self.dialect: Final = dialect
        self.facts: Final = Facts()
        self.started = False
        self._principal: Principal | None = None
        self._limits: list[tuple[str, str]] = []
        self._scope = scope
        self._receive = receive
        self._send = send
        self._exchange: Exchange | None = scope.get(EXCHANGE)  # there is none where something else than our connections carries the call
        self.begin_part: Final[Callable[[bytes], Awaitable[None] | None]] = (
            self._send_message if self._exchange is None else self._exchange.part
        )
        self._options = options

    @property
    def known(self) -> Principal:
        """Who asks, on a route that is not public."""
        assert self._principal is not None
        return self._principal

    def recognised(self, principal: Principal) -> None:
        """It is known who asks."""
        self._principal = principal
        self.facts.principal, self.facts.tenant = principal.name, principal.tenant

    def limited(self, left: Remaining | None) -> None:
        """Tell in the answer's headers what the client has left; None: it has no limits."""
        self._limits = [] if left is None else limit_headers(left)

    async def body(self) -> bytes:
        """The whole body. Raises ``Refused`` where it is too long or takes too long, ``Left`` where it never ends."""
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._options.max_body:
            raise self._too_long()
        if self._exchange is not None and (whole := self._exchange.body()) is not None:
            if len(whole) > self._options.max_body:
                raise self._too_long()
            return whole
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._options.body_timeout):
                while more:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise Left
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._options.max_body:
                        raise self._too_long()
                    more = message.get("more_body", False)
        except TimeoutError:
            seconds = self._options.body_timeout
            raise refused(408, f"The body did not arrive within {seconds:g} seconds; send it faster.", "body_timeout") from None
        return b"".join(parts)

    async def fields(self) -> dict[str, Any]:
        """The body as a JSON object, without fields that are null. Raises ``RequestError`` where it is none."""
        kind = self.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind != JSON:  # a web page may send other types without asking first
            raise refused(415, f'The body is of the type "{kind}"; send {JSON}.', "unsupported_media_type")
        body = await self.body()
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"The body is no JSON: {error}.") from None
        if not isinstance(found, dict):
            raise RequestError(f"The body is a JSON {_kind(found)}, and it must be an object.")
        return {name: value for name, value in found.items() if value is not None}

    def leaving(self) -> asyncio.Future[None]:
        """Is done once the client has gone; to be asked for after the body, and cancelled where nobody waits for it any more."""
        return asyncio.ensure_future(self._left()) if self._exchange is None else self._exchange.leaving()

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, data: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer with JSON."""
        await self.reply_bytes(orjson.dumps(data), JSON, status, headers)

    async def reply_bytes(self, body: bytes, media_type: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer with a whole body."""
        await self.begin(media_type, status, [("content-length", str(len(body))), *headers])
        await self._send({"type": "http.response.body", "body": body})

    async def hand_over(self, app: ASGIApp) -> None:
        """Have another application read the request and answer it."""
        self.started = True
        await app(self._scope, self._receive, self._send)

    async def begin(self, media_type: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Begin an answer, whose body follows in parts."""
        self.started = True
        encoded = [(b"content-type", media_type.encode())]
        encoded += [(name.encode(), value.encode("latin-1")) for name, value in (*headers, *self._limits)]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def part(self, body: bytes) -> None:
        """A part of a body of unknown length; waits while the client does not read."""
        if (rest := self.begin_part(body)) is not None:
            await rest

    def _send_message(self, body: bytes) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        """End a body that was sent in parts, with a last one."""
        await self._send({"type": "http.response.body", "body": last})

    async def fail(self, failure: Failure) -> None:
        """Answer with an error."""
        self.facts.code = failure.code
        await self.reply(self.dialect.error(failure), failure.status, failure.all_headers())

    def _too_long(self) -> Refused:
        return refused(413, f"The body is longer than {self._options.max_body} bytes; send less.", "body_too_long")


def _kind(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")

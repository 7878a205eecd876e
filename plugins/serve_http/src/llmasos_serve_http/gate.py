"""What every request passes first: where it comes from, whether the server still works, and how errors leave."""

from __future__ import annotations

import functools
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmasos_hookspecs import LLMasOSError, is_loopback
from llmasos_serve_http.call import Call, Left
from llmasos_serve_http.dialect import Dialect
from llmasos_serve_http.failures import STOPPED, Failure, Refused, failure_of, refused
from llmasos_serve_http.handled import Facts, Handled
from llmasos_serve_http.options import Options
from llmasos_serve_http.tracing import CARRIERS

_log = logging.getLogger("llmasos.serve_http")

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What web pages may send and read.
_CORS: Final = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id, anthropic-version, mcp-protocol-version"),
    (b"access-control-max-age", b"600"),
)
#: What is answered while the server is drained: health says that it is.
_ALWAYS: Final = frozenset(("/healthz", "/readyz"))


class Gate:
    """An ASGI application around another one.

    Attributes:
        active: requests in progress.
        closed: new requests are refused.
    """

    def __init__(self, app: ASGIApp, options: Options, dialect: Dialect, watchers: Sequence[Callable[[Handled], object]] = ()) -> None:
        """``watchers``: are told of each request that is over."""
        self.active = 0
        self.closed = False
        self._app = app
        self._options = options
        self._dialect = dialect
        self._watchers = watchers
        self._origins = frozenset(origin.lower().rstrip("/") for origin in options.allowed_origins)
        self._hosts = frozenset(host.lower() for host in options.allowed_hosts)
        # Beyond the loopback interface core asks for access control, so that a page that is led to this server by its name has no key.
        self._any_host = not self._hosts and not is_loopback(options.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        scope["llmasos.id"] = asked if _ID.fullmatch(asked) else secrets.token_hex(16)
        scope["app"] = self  # Starlette then raises its refusals
        added = [(b"x-request-id", scope["llmasos.id"].encode()), (b"x-content-type-options", b"nosniff")]
        origin = headers.get("origin")
        if origin is not None and self._listed(origin):
            added += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]
            added += [(b"access-control-expose-headers", b"x-request-id, retry-after")]
        status, began, start = 0, time.time_ns(), time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        self.active += 1
        try:
            self._check(scope, headers, origin)
            if scope["method"] == "OPTIONS" and origin is not None and "access-control-request-method" in headers:
                await sending({"type": "http.response.start", "status": 204, "headers": list(_CORS)})
                await sending({"type": "http.response.body", "body": b""})
                return
            await self._app(scope, receive, sending)
        except Left:
            pass
        except Exception as error:
            failure = self._failure(error, scope)
            if status:
                raise
            call = scope.setdefault("llmasos.call", Call(scope, receive, sending, self._options, self._dialect))
            await call.fail(failure)
        finally:
            self.active -= 1
            if self._watchers:
                self._tell(scope, headers, status, began, time.perf_counter() - start)

    def _tell(self, scope: Scope, headers: Headers, status: int, began: int, seconds: float) -> None:
        call, client = scope.get("llmasos.call"), scope.get("client")
        handled = Handled(
            id=scope["llmasos.id"],
            began=began,
            seconds=seconds,
            method=scope["method"],
            route=scope.get("llmasos.route", ""),
            status=status,
            client=client[0] if client else "",
            headers={name: headers[name] for name in CARRIERS if name in headers},
            facts=Facts() if call is None else call.facts,
        )
        for watcher in self._watchers:
            watcher(handled)

    def _check(self, scope: Scope, headers: Headers, origin: str | None) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise refused(
                421, "This server is not known by the name in the Host header; add it to its option allowed_hosts.", "unknown_host"
            )
        if origin is not None and not self._listed(origin) and not _same(origin, hosts[0], scope["scheme"]):
            raise refused(403, "Pages of this origin may not use this server; add it to its option allowed_origins.", "unknown_origin")
        if self.closed and scope["path"] not in _ALWAYS:
            raise Refused(STOPPED)

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        return bool(name) and (self._any_host or name in self._hosts or _is_loopback(name))

    def _listed(self, origin: str) -> bool:
        return "*" in self._origins or origin.lower() in self._origins

    @staticmethod
    def _failure(error: Exception, scope: Scope) -> Failure:
        match error:
            case Refused() | LLMasOSError():
                return failure_of(error)
            case HTTPException(status_code=404):
                return refused(404, f"There is nothing at {scope['path'][:200]!r}.", "not_found").failure
            case HTTPException(status_code=405):
                allowed = tuple((name.lower(), value) for name, value in (error.headers or {}).items())
                sentence = f"{scope['path'][:200]!r} does not take {scope['method']}."
                return refused(405, sentence, "method_not_allowed", headers=allowed).failure
        _log.exception("Request %s failed.", scope["llmasos.id"], exc_info=error)
        sentence = f"The server failed; its log tells more about request {scope['llmasos.id']}."
        return Failure(status=500, type="server_error", code="server_error", message=sentence)


#: The names in the Host headers of clients are few, and reading one as an address takes as long as the rest of the gate.
_is_loopback: Final = functools.lru_cache(256)(is_loopback)


@functools.lru_cache(256)
def _name(host: str) -> str:
    """The name in ``name:port``; empty where it is none."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/\s]+)(?::\d{1,5})?", host)
    return found[1].lower().rstrip(".") if found else ""


def _same(origin: str, host: str, scheme: str) -> bool:
    """Whether a page that this server gave asks."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return (parts.scheme, parts.netloc.lower()) == (scheme, host.lower())

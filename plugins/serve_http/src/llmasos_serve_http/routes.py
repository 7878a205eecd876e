"""Routes: each says who may use it, or the server is not made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal

import attrs
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from llmasos_hookspecs import ModelFacts, Permission, PluginError, Principal, Runtime
from llmasos_serve_http.call import Call
from llmasos_serve_http.clients import credentials_of
from llmasos_serve_http.dialect import Dialect
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.options import Options
from llmasos_serve_http.threads import Threads

#: ``public``: every client, also without a key. ``use``: who has a key; the runtime decides about each model and task.
Needs = Literal["public"] | Permission


@attrs.frozen(kw_only=True)
class Service:
    """What handlers share.

    Attributes:
        runtime: what is served.
        options: of the server.
        threads: for the runtime's methods that may wait.
    """

    runtime: Runtime
    options: Options
    threads: Threads

    async def known(self, call: Call, needs: Needs, resource: str) -> Principal:
        """Who calls. Raises ``NotAuthenticated``, or ``NotAllowed`` where it may not what ``needs`` says to ``resource``."""
        credentials = credentials_of(call.headers, call.client)
        if needs == "use" and (found := self.runtime.recognise(credentials)) is not None:
            return found

        def check() -> Principal:
            principal = self.runtime.authenticate(credentials)
            if needs in ("inspect", "administer"):
                self.runtime.authorize(principal, needs, resource)
            return principal

        return check() if self.runtime.open else await self.threads.call(check)

    async def models(self, principal: Principal) -> list[ModelFacts]:
        """The models that a client may use."""
        return await self.threads.call(lambda: list(self.runtime.models(principal)))


class Guarded:
    """A handler behind its permission; an ASGI application.

    Attributes:
        route: the path of its route, once that is known.
    """

    def __init__(
        self,
        service: Service,
        needs: Needs,
        dialect: Dialect,
        handle: Callable[[Call], Awaitable[None]],
        *,
        resource: str = "server",
        operation: Operation | None = None,
    ) -> None:
        """``resource``: for which the permission is needed; may name variables of the route's path: ``model:{name}``. ``operation``: what
        the OpenAPI document says of it."""
        self.needs: Final = needs
        self.route = ""
        self.dialect: Final = dialect
        self.handle: Final = handle
        self.operation: Final = operation
        self.resource: Final = resource
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send, self._service.options, self.dialect)
        scope["llmasos.call"], scope["llmasos.route"] = call, self.route
        if self.needs != "public":
            call.recognised(await self._service.known(call, self.needs, self.resource.format_map(call.path)))
        await self.handle(call)


class Routed:
    """An ASGI application of routes, the first that fits. Addresses without variables are looked up, others are tried in turn.

    Attributes:
        routes: all of them.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        """Raises ``PluginError`` where one declares no permission."""
        self.routes: Final = list(routes)
        self._router = Router(self.routes, redirect_slashes=False, default=_nowhere)
        self._fixed: dict[tuple[str, str], Guarded] = {}
        before: list[Route] = []
        for route in self.routes:
            if not isinstance(route, Route) or not isinstance(route.endpoint, Guarded) or not route.methods:
                raise PluginError(
                    f"The route {getattr(route, 'path', route)} declares no permission and methods; wrap its handler in Guarded."
                )
            route.endpoint.route = route.path
            if not route.param_convertors and not any(each.path_regex.match(route.path) for each in before):
                self._fixed |= {(method, route.path): route.endpoint for method in route.methods}
            before.append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._fixed.get((scope["method"], scope["path"])) or self._router)(scope, receive, send)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)

"""``/admin/keys`` and ``/admin/audit``: an administrator's view of keys and of what was done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import RequestError
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import refused
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import COUNT, FLAG, TEXT, answer, body, listed

_NAMES: Final = {"type": "array", "items": TEXT}
_KEY: Final = answer(id=TEXT, label=TEXT, tenant=TEXT, role=TEXT, state=TEXT)
_SECRET: Final = answer(id=TEXT, key=TEXT)
_WANTED: Final = {
    **dict.fromkeys(("label", "tenant", "role", "expires"), TEXT),
    **dict.fromkeys(("models", "tasks", "tools"), _NAMES),
    **dict.fromkeys(("requests_per_minute", "tokens_per_day", "tokens_per_month", "concurrency", "max_new_tokens"), COUNT),
    "priority": {"type": "integer"},
    "weight": {"type": "number"},
}
#: Events that are told at once.
_EVENTS: Final = 200

R = TypeVar("R")


class Keys:
    """Keys are listed, made, replaced and revoked, and the audit log is shown and verified, by who may ``administer`` the server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        yield self._route("/admin/keys", "GET", self.keys, Operation(answer=listed(_KEY)))
        yield self._route("/admin/keys", "POST", self.create, Operation(body=body(_WANTED, required=["label"]), answer=_SECRET))
        yield self._route("/admin/keys/{id}/rotate", "POST", self.rotate, Operation(answer=_SECRET))
        yield self._route("/admin/keys/{id}/revoke", "POST", self.revoke, Operation(answer=_KEY))
        yield self._route("/admin/audit", "GET", self.audit, Operation(answer=listed(answer(action=TEXT, outcome=TEXT))))
        yield self._route("/admin/audit/verify", "POST", self.verify, Operation(answer=answer(whole=FLAG, problems=_NAMES)))

    def _route(self, path: str, method: str, handle: Any, operation: Operation) -> BaseRoute:
        return Route(path, Guarded(self._service, "administer", OpenAIDialect(), handle, operation=operation), methods=[method])

    async def keys(self, call: Call) -> None:
        """The keys, without their secrets, each with its limits and what it has used."""
        await call.reply({"object": "list", "data": await self._asked(lambda: list(self._service.runtime.list_keys(call.known)))})

    async def create(self, call: Call) -> None:
        """Make a key; ``key`` is its secret, which is told this once."""
        found = await call.fields()
        wanted = {name: found[name] for name in _WANTED if name in found}
        await self._tell(call, lambda: self._service.runtime.create_key(call.known, wanted))

    async def rotate(self, call: Call) -> None:
        """Make a key in place of another, which ends; ``key`` is its secret, which is told this once."""
        await self._tell(call, lambda: self._service.runtime.rotate_key(call.known, call.path["id"]))

    async def revoke(self, call: Call) -> None:
        """End a key at once."""
        await self._tell(call, lambda: self._service.runtime.revoke_key(call.known, call.path["id"]))

    async def audit(self, call: Call) -> None:
        """The last events of the audit log, the newest first."""
        found = await self._asked(lambda: list(self._service.runtime.audit_events(call.known, _EVENTS)))
        await call.reply({"object": "list", "data": found})

    async def verify(self, call: Call) -> None:
        """Check the audit log; ``problems`` says where it was changed."""
        problems = await self._asked(lambda: list(self._service.runtime.verify_audit(call.known)))
        await call.reply({"whole": not problems, "problems": problems})

    async def _tell(self, call: Call, ask: Callable[[], Any]) -> None:
        # A secret must not stay in a cache on the way.
        await call.reply(dict(await self._asked(ask)), headers=[("cache-control", "no-store")])

    async def _asked(self, ask: Callable[[], R]) -> R:
        try:
            return await self._service.threads.call(ask)
        except RequestError as error:
            if self._service.runtime.keeps_keys:
                raise
            raise refused(501, str(error), "no_keys") from None

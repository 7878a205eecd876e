"""What the page asks first: who the user is, what it may do, and which models there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs.access import PERMISSIONS
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import FLAG, TEXT, answer

_SESSION: Final = Operation(
    answer=answer(
        name=TEXT,
        tenant=TEXT,
        permissions={"type": "array", "items": {"enum": list(PERMISSIONS)}},
        keeps=FLAG,
        keys=FLAG,
        assists=FLAG,
        max_body={"type": "integer"},
        models={"type": "array", "items": answer(name=TEXT, state=TEXT)},
    )
)


class Session:
    """Tells who asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterator[BaseRoute]:
        """With its permission."""
        guarded = Guarded(self._service, "use", OpenAIDialect(), self.session, operation=_SESSION)
        yield Route("/console/session", guarded, methods=["GET"])

    async def session(self, call: Call) -> None:
        """Name, tenant, permissions for the server, and usable models of who asks.

        ``keeps``: conversations are kept. ``keys``: the access control keeps keys and an audit log. ``assists``: ``/v1/responses`` is
        answered with tools of the server. ``max_body``: bytes that a request may have."""
        await call.reply(await self._service.threads.call(lambda: self._found(call)))

    def _found(self, call: Call) -> dict[str, Any]:
        runtime, known = self._service.runtime, call.known
        return {
            "name": known.name,
            "tenant": known.tenant,
            "permissions": [each for each in PERMISSIONS if each == "use" or runtime.allows(known, each)],
            "keeps": self._service.options.conversations,
            "keys": runtime.keeps_keys,
            "assists": bool(self._service.options.assistant) and runtime.allows(known, "use", f"task:{self._service.options.assistant}"),
            "max_body": self._service.options.max_body,
            "models": [
                {
                    "name": model.name,
                    "source": model.source,
                    "state": model.state,
                    "context_length": model.context_length,
                    "features": sorted(model.features),
                }
                for model in runtime.models(known)
            ],
        }

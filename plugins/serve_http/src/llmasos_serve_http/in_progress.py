"""``/admin/requests``: the generations in progress, and an end to one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from starlette.routing import BaseRoute, Route

from llmasos_serve_http.answering import Answering
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import refused
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import TEXT, answer, listed

_SECONDS: Final = {"type": "number", "minimum": 0}
_LIST: Final = Operation(answer=listed(answer(id=TEXT, model=TEXT, principal=TEXT, tenant=TEXT, seconds=_SECONDS)))
_CANCELLED: Final = Operation(answer=answer(id=TEXT))


class InProgress:
    """Lists and cancels what ``answering`` has begun."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        seen = Guarded(self._service, "inspect", OpenAIDialect(), self.requests, operation=_LIST)
        yield Route("/admin/requests", seen, methods=["GET"])
        cancelled = Guarded(self._service, "administer", OpenAIDialect(), self.cancel, operation=_CANCELLED)
        yield Route("/admin/requests/{id}/cancel", cancelled, methods=["POST"])

    async def requests(self, call: Call) -> None:
        """The generations that this server has begun and not ended, the oldest first; ``first``: seconds until the first piece."""
        found = [
            {
                "id": each.id,
                "model": each.model,
                "principal": each.facts.principal,
                "tenant": each.facts.tenant,
                "seconds": each.seconds,
                "first": each.facts.first,
            }
            for each in self._answering.in_progress()
        ]
        await call.reply({"object": "list", "data": found})

    async def cancel(self, call: Call) -> None:
        """End one; its client is told that it was cancelled."""
        if not self._answering.cancel(call.path["id"]):
            raise refused(
                404, f"No generation {call.path['id'][:200]!r} is in progress; GET /admin/requests lists them.", "request_not_found"
            )
        await call.reply({"id": call.path["id"]})

"""Whether the server lives, and whether it takes requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmasos_serve_http.call import Call
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Service
from llmasos_serve_http.schemas import answer

#: Both routes.
HEALTH: Final = Operation(answer=answer(status={"enum": ["ok", "ready", "draining", "stalled"]}))


class Health:
    """``/healthz`` and ``/readyz``, for load balancers and process supervisors; they tell no names."""

    def __init__(self, service: Service, closed: Callable[[], bool]) -> None:
        self._runtime = service.runtime
        self._threads = service.threads
        self._stalled_after = service.options.stalled_after
        self._closed = closed

    async def live(self, call: Call) -> None:
        """The event loop answers."""
        await call.reply({"status": "ok"})

    async def ready(self, call: Call) -> None:
        """New requests are accepted, and those in progress get on."""
        if self._closed() or self._runtime.draining:
            await call.reply({"status": "draining"}, 503)
        elif max((await self._threads.call(self._runtime.health)).values(), default=0.0) > self._stalled_after:
            await call.reply({"status": "stalled"}, 503)
        else:
            await call.reply({"status": "ready"})

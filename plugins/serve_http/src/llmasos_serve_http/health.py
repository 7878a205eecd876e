"""Whether the server lives, and whether it takes requests."""

from __future__ import annotations

from collections.abc import Callable

from llmasos_hookspecs import Runtime
from llmasos_serve_http.call import Call


class Health:
    """``/healthz`` and ``/readyz``, for load balancers and process supervisors; they tell no names."""

    def __init__(self, runtime: Runtime, closed: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._closed = closed

    async def live(self, call: Call) -> None:
        """The event loop answers."""
        await call.reply({"status": "ok"})

    async def ready(self, call: Call) -> None:
        """New requests are accepted."""
        if self._closed() or self._runtime.draining:
            await call.reply({"status": "draining"}, 503)
        else:
            await call.reply({"status": "ready"})

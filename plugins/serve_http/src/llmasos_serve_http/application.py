"""The server's application: routes behind the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import Runtime
from llmasos_serve_http.access_log import AccessLog
from llmasos_serve_http.administration import Administration
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.anthropic.routes import Anthropic
from llmasos_serve_http.console.conversations import Conversations
from llmasos_serve_http.console.files import Files
from llmasos_serve_http.console.session import Session
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.gate import Gate
from llmasos_serve_http.health import HEALTH, Health
from llmasos_serve_http.in_progress import InProgress
from llmasos_serve_http.keys import Keys
from llmasos_serve_http.mcp_tools import McpTools
from llmasos_serve_http.metrics import Metrics
from llmasos_serve_http.ollama.routes import Ollama
from llmasos_serve_http.openai.audio import Audio
from llmasos_serve_http.openai.routes import OpenAI
from llmasos_serve_http.openapi import OpenAPI
from llmasos_serve_http.options import Options
from llmasos_serve_http.routes import Guarded, Routed, Service
from llmasos_serve_http.tasks import Tasks
from llmasos_serve_http.threads import Threads
from llmasos_serve_http.tokens import Tokens
from llmasos_serve_http.tracing import Tracing

#: Threads for calls of the runtime that are no generations, and how many may wait for one.
_THREADS: Final = 16
_WAITING: Final = 1024
#: Changes by administrators at once.
_CHANGES: Final = 4


class Application:
    """What is served, apart from the sockets.

    Attributes:
        gate: the ASGI application.
        answering: the generations in progress.
        routes: what there is.
    """

    def __init__(
        self,
        runtime: Runtime,
        options: Options,
        more: Callable[[Service], Iterable[BaseRoute]] = lambda _: (),
        metrics: Metrics | None = None,
    ) -> None:
        """``more``: makes further routes. ``metrics``: those that ``runtime`` tells already; None: none yet. Raises ``PluginError`` where a
        route declares no permission, and ``ConfigError`` for options that cannot be kept."""
        self._service = Service(runtime=runtime, options=options, threads=Threads(_THREADS, _WAITING))
        self._changes = Threads(_CHANGES, _WAITING)
        self._metrics = metrics or Metrics()
        self.answering: Final = Answering(runtime, self._metrics, options.comment_every, options.stream_every)
        described = OpenAPI(self._service)
        routed = Routed([*self._routes(), *described.routes(), *more(self._service)])
        described.describe(routed.routes)
        self.routes: Final[Sequence[BaseRoute]] = routed.routes
        # The last, because they have to be closed, and all that is before may raise.
        self._watchers: Sequence[AccessLog | Tracing] = [
            *([Tracing()] if options.traces else []),
            *([AccessLog(options.access_log)] if options.access_log else []),
        ]
        self._deafen = None if metrics else runtime.listen(self._metrics)
        self.gate: Final = Gate(routed, options, OpenAIDialect(), self._watchers)

    def close(self) -> None:
        """Begin nothing more."""
        self._service.threads.close()
        self._changes.close()
        if self._deafen is not None:
            self._deafen()
        for watcher in self._watchers:
            watcher.close()

    def _routes(self) -> Iterator[BaseRoute]:
        plain = OpenAIDialect()
        health = Health(self._service, lambda: self.gate.closed)
        yield Route("/healthz", Guarded(self._service, "public", plain, health.live, operation=HEALTH), methods=["GET"])
        yield Route("/readyz", Guarded(self._service, "public", plain, health.ready, operation=HEALTH), methods=["GET"])
        yield from OpenAI(self._service, self.answering).routes()
        yield from Audio(self._service, self.answering).routes()
        yield from Anthropic(self._service, self.answering).routes()
        yield from Ollama(self._service, self.answering).routes()
        yield from self._metrics.routes(self._service)
        yield from Tokens(self._service).routes()
        yield from Tasks(self._service, self.answering).routes()
        if self._service.options.mcp:
            yield from McpTools(self._service, self.answering).routes()
        yield from Administration(self._service, self._changes).routes()
        yield from InProgress(self._service, self.answering).routes()
        yield from Keys(self._service).routes()
        if self._service.options.console:
            yield from Session(self._service).routes()
            if self._service.options.conversations:
                yield from Conversations(self._service).routes()
            yield from Files(self._service).routes()

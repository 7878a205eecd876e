"""Anthropic's routes."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.routing import BaseRoute, Route

from llmasos_serve_http.answering import Answering
from llmasos_serve_http.anthropic import operations
from llmasos_serve_http.anthropic.messages import asked_of, messages_of
from llmasos_serve_http.anthropic.rendering import DIALECT, MessageRendering
from llmasos_serve_http.anthropic.tools import tools_of
from llmasos_serve_http.call import Call
from llmasos_serve_http.fields import model_of
from llmasos_serve_http.routes import Guarded, Service


class Anthropic:
    """What Anthropic's clients ask for."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        yield Route("/v1/messages", Guarded(self._service, "use", DIALECT, self.messages, operation=operations.MESSAGES), methods=["POST"])
        yield Route(
            "/v1/messages/count_tokens",
            Guarded(self._service, "use", DIALECT, self.count_tokens, operation=operations.COUNT_TOKENS),
            methods=["POST"],
        )

    async def messages(self, call: Call) -> None:
        """Answer messages."""
        asked = asked_of(await call.fields())
        await self._answering.answer(call, asked, MessageRendering(call.id))

    async def count_tokens(self, call: Call) -> None:
        """How many tokens messages have."""
        body = await call.fields()
        messages, model, options = messages_of(body), model_of(body), tools_of(body)
        runtime = self._service.runtime
        count = await self._service.threads.call(lambda: runtime.count_tokens(call.known, messages, model=model, **options))
        await call.reply({"input_tokens": count})

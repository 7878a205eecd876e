"""Ollama's routes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import ModelFacts, UnknownModel
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.call import Call
from llmasos_serve_http.fields import shown
from llmasos_serve_http.ollama import operations
from llmasos_serve_http.ollama.bodies import chat_asked, generate_asked, name_of
from llmasos_serve_http.ollama.rendering import DIALECT, LineRendering, chat_parts, generate_parts
from llmasos_serve_http.routes import Guarded, Needs, Service

#: What clients that show a date get, where none is known.
_UNKNOWN_DATE: Final = "1970-01-01T00:00:00Z"


class Ollama:
    """What Ollama's clients ask for."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        needs: Needs = "use"
        for path, method, handle, operation in (
            ("/api/chat", "POST", self.chat, operations.CHAT),
            ("/api/generate", "POST", self.generate, operations.GENERATE),
            ("/api/tags", "GET", self.tags, operations.TAGS),
            ("/api/ps", "GET", self.loaded, operations.LOADED),
            ("/api/show", "POST", self.show, operations.SHOW),
            ("/api/version", "GET", self.version, operations.VERSION),
        ):
            yield Route(path, Guarded(self._service, needs, DIALECT, handle, operation=operation), methods=[method])

    async def chat(self, call: Call) -> None:
        """Answer chat messages."""
        await self._answering.answer(call, chat_asked(await call.fields()), LineRendering(chat_parts))

    async def generate(self, call: Call) -> None:
        """Answer a prompt."""
        await self._answering.answer(call, generate_asked(await call.fields()), LineRendering(generate_parts))

    async def tags(self, call: Call) -> None:
        """The models that the client may use."""
        await call.reply({"models": [_described(facts) for facts in await self._service.models(call.known)]})

    async def loaded(self, call: Call) -> None:
        """Those of them that are in memory."""
        await call.reply({"models": [_described(facts) for facts in await self._service.models(call.known) if facts.state == "loaded"]})

    async def show(self, call: Call) -> None:
        """One of them."""
        body = await call.fields()
        name = name_of(body if "model" in body else {"model": body.get("name")})
        for facts in await self._service.models(call.known):
            if facts.name == name:
                length = {} if facts.context_length is None else {"general.context_length": facts.context_length}
                capabilities = ["completion", "tools", *(["vision"] if "image" in facts.features else [])]
                await call.reply(_described(facts) | {"model_info": length, "capabilities": capabilities})
                return
        raise UnknownModel(f"There is no model {shown(name)} that you may use; /api/tags lists them.")

    async def version(self, call: Call) -> None:
        """The version of this server, which is not Ollama's."""
        await call.reply({"version": version("llmasos-serve-http")})


def _described(facts: ModelFacts) -> dict[str, Any]:
    details = {"format": "", "family": "", "families": [], "parameter_size": "", "quantization_level": ""}
    return {"name": facts.name, "model": facts.name, "modified_at": _UNKNOWN_DATE, "size": 0, "digest": "", "details": details}

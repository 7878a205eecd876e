"""The OpenAPI document: made of the routes, what they declare, and the docstrings of their handlers."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import orjson
from starlette.routing import BaseRoute, Route

from llmasos_serve_http import sse
from llmasos_serve_http.call import JSON, Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.ollama.rendering import LineRendering
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import Schema

_PERMISSIONS: Final = {
    "public": "Public.",
    "use": "Needs a key.",
    "inspect": "Needs a key that may inspect the server.",
    "administer": "Needs a key that may administer what it changes.",
}
_VARIABLE: Final = re.compile(r"\{(\w+)(?::\w+)?\}")


class OpenAPI:
    """``/openapi.json``, made when it is first asked for: without it an application is made in half the time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._described: Sequence[BaseRoute] = ()

    def routes(self) -> Iterator[BaseRoute]:
        """With its permission."""
        yield Route("/openapi.json", Guarded(self._service, "use", OpenAIDialect(), self._reply, operation=Operation()), methods=["GET"])

    def describe(self, routes: Sequence[BaseRoute]) -> None:
        """The document is of these routes."""
        self._described = routes

    @functools.cached_property
    def _document(self) -> bytes:
        return orjson.dumps(document(self._described))

    async def _reply(self, call: Call) -> None:
        """This document."""
        await call.reply_bytes(self._document, JSON)


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document of guarded routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        assert isinstance(route, Route)
        assert isinstance(route.endpoint, Guarded)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(_VARIABLE.sub(r"{\1}", route.path), {})[method.lower()] = _operation(route.path, method, route.endpoint)
    return {
        "openapi": "3.2.0",
        "info": {"title": "LLMasOS", "version": version("llmasos-serve-http"), "description": "A pipeline over HTTP."},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        },
    }


def _operation(path: str, method: str, guarded: Guarded) -> Mapping[str, Any]:
    operation = guarded.operation or Operation()
    failed = {"description": "An error.", "content": {JSON: {"schema": guarded.dialect.schema}}}
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": (inspect.getdoc(guarded.handle) or "").partition("\n")[0],
        "description": _PERMISSIONS[guarded.needs],
        "tags": [path.split("/")[1]],
        "security": [] if guarded.needs == "public" else [{"bearer": []}, {"key": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in _VARIABLE.findall(path)
        ],
        "responses": {"200": {"description": "The answer.", "content": _contents(operation)}, "4XX": failed, "5XX": failed},
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": operation.body}}}
    return found


def _contents(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {operation.media_type: {"schema": operation.answer}}
    if operation.events is not None:
        found[sse.MEDIA_TYPE.partition(";")[0]] = {"itemSchema": _event(operation.events)}
    if operation.lines is not None:
        found[LineRendering.media_type] = {"itemSchema": operation.lines}
    return found


def _event(data: Schema) -> Schema:
    """A server-sent event whose ``data`` is JSON of that form, or the end of the stream."""
    return {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": JSON, "contentSchema": data}},
        "required": ["data"],
    }

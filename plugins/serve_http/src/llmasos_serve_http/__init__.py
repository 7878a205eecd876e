"""The server plugin ``http``: a pipeline as clients of OpenAI's API expect it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import Component, Context, Runtime, hookimpl
from llmasos_serve_http.options import Options

if TYPE_CHECKING:
    from llmasos_serve_http.listening import HttpServer


@hookimpl
def llmasos_component() -> Component:
    """Describe the plugin."""
    return Component(summary="HTTP, as clients of OpenAI, Anthropic and Ollama expect it.", options=Options)


@hookimpl
def llmasos_create_server(runtime: Runtime, options: Options, context: Context) -> HttpServer:
    """A server that was not started."""
    from llmasos_serve_http.listening import HttpServer

    return HttpServer(runtime, options)

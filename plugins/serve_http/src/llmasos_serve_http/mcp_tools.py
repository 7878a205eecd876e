"""``/mcp``: the tasks as tools of the Model Context Protocol, over its streamable HTTP (https://modelcontextprotocol.io).

Without sessions: each request says who asks, and is answered by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import orjson
from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import ConfigError, LLMasOSError, TaskFacts
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import OBJECT
from llmasos_serve_http.threads import Threads


class McpTools:
    """A tool for each task that the client may run. ``threads``: a task keeps one until it is done."""

    def __init__(self, service: Service, threads: Threads) -> None:
        """Raises ``ConfigError`` where the library ``mcp`` is not installed."""
        try:
            import mcp_types
            from mcp.server.lowlevel import Server
            from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
        except ImportError as error:
            raise ConfigError('The option mcp needs the library mcp; run pip install "llmasos-serve-http[mcp]".') from error
        self._service = service
        self._threads = threads
        self._types: Any = mcp_types
        self._server: Any = Server
        self._manager: Any = StreamableHTTPSessionManager

    def routes(self) -> Iterator[BaseRoute]:
        """With its permission."""
        guarded = Guarded(self._service, "use", OpenAIDialect(), self.answer, operation=Operation(body=OBJECT))
        yield Route("/mcp", guarded, methods=["POST"])

    async def answer(self, call: Call) -> None:
        """Answer a message of the Model Context Protocol."""

        async def listed(_context: Any, _params: Any) -> Any:
            return self._types.ListToolsResult(tools=[self._tool(facts) for facts in await self._tasks(call)])

        async def called(_context: Any, params: Any) -> Any:
            return await self._called(call, params.name, params.arguments or {})

        server = self._server("llmasos", version=version("llmasos-serve-http"), on_list_tools=listed, on_call_tool=called)
        # One for each request: its tasks end with it, and it needs nothing that lives as long as the event loop.
        manager = self._manager(server, stateless=True, json_response=True, max_request_body_size=self._service.options.max_body)
        async with manager.run():
            await call.hand_over(manager.handle_request)

    async def _called(self, call: Call, name: str, arguments: dict[str, Any]) -> Any:
        """What a task gives; an error is told to the model that called it, which can do better."""
        if name not in {facts.name for facts in await self._tasks(call)}:
            return self._failed(f'There is no tool "{name}" that you may use; tools/list lists them.')
        runtime = self._service.runtime
        try:
            output = await self._threads.call(lambda: dict(runtime.run(call.known, name, arguments)))
        except LLMasOSError as error:
            return self._failed(str(error))
        text = self._types.TextContent(type="text", text=orjson.dumps(output).decode())
        return self._types.CallToolResult(content=[text], structured_content=output)

    def _failed(self, sentence: str) -> Any:
        return self._types.CallToolResult(content=[self._types.TextContent(type="text", text=sentence)], is_error=True)

    def _tool(self, facts: TaskFacts) -> Any:
        return self._types.Tool(
            name=facts.name, description=facts.summary, input_schema=dict(facts.inputs), output_schema=dict(facts.output)
        )

    async def _tasks(self, call: Call) -> list[TaskFacts]:
        return await self._service.threads.call(lambda: list(self._service.runtime.tasks(call.known)))

"""``/mcp``: the tasks as tools of the Model Context Protocol, over its streamable HTTP (https://modelcontextprotocol.io).

Without sessions: each request says who asks, and is answered by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from typing import Any

import orjson
from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import ConfigError, LLMasOSError, TaskFacts
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.call import Call, Left
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import Refused
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import OBJECT

#: Tells the client how far its call is: a number that grows, the number at the end, and a message. Does nothing where it did not ask.
Report = Callable[[float, float | None, str | None], Awaitable[None]]


class _Progress:
    """Tells of what models write for a task, in its order; what comes while one notification is sent is told in the next."""

    def __init__(self, report: Report, *, texts: bool) -> None:
        self._report = report
        self._texts = texts
        self._kept: list[str] = []
        self._tokens = self._told = 0
        self._telling: asyncio.Task[None] | None = None

    def written(self, text: str, tokens: int) -> None:
        """A model wrote ``text``."""
        self._tokens += tokens
        self._kept.append(text)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """Tell the rest."""
        if self._telling is not None:
            await self._telling

    async def _tell(self) -> None:
        while self._kept:
            text, self._kept = "".join(self._kept), []
            self._told = max(self._told + 1, self._tokens)  # it must grow, also where a guard's piece has no tokens
            await self._report(float(self._told), None, text if self._texts else None)


class McpTools:
    """A tool for each task that the client may run. A task ends where its client has left: without a session it could not be asked for."""

    def __init__(self, service: Service, answering: Answering) -> None:
        """Raises ``ConfigError`` where the library ``mcp`` is not installed."""
        try:
            import mcp_types
            from mcp.server.lowlevel import Server
            from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
        except ImportError as error:
            raise ConfigError('The option mcp needs the library mcp; run pip install "llmasos-serve-http[mcp]".') from error
        self._service = service
        self._answering = answering
        self._types: Any = mcp_types
        self._server: Any = Server
        self._manager: Any = StreamableHTTPSessionManager

    def routes(self) -> Iterator[BaseRoute]:
        """With its permission."""
        guarded = Guarded(self._service, "use", OpenAIDialect(), self.answer, operation=Operation(body=OBJECT))
        yield Route("/mcp", guarded, methods=["POST"])

    async def answer(self, call: Call) -> None:
        """Answer a message of the Model Context Protocol: as JSON, or as events where there is progress to tell."""

        async def listed(_context: Any, _params: Any) -> Any:
            return self._types.ListToolsResult(tools=[self._tool(facts) for facts in await self._tasks(call)])

        async def called(context: Any, params: Any) -> Any:
            return await self._called(call, params.name, params.arguments or {}, context.session.report_progress)

        server = self._server("llmasos", version=version("llmasos-serve-http"), on_list_tools=listed, on_call_tool=called)
        # One for each request: its tasks end with it, and it needs nothing that lives as long as the event loop.
        manager = self._manager(server, stateless=True, max_request_body_size=self._service.options.max_body)
        async with manager.run():
            await call.hand_over(manager.handle_request)

    async def _called(self, call: Call, name: str, arguments: dict[str, Any], report: Report) -> Any:
        """What a task gives; an error is told to the model that called it, which can do better. Progress is tokens; where the task can
        answer piece by piece, its message is the text."""
        found = next((facts for facts in await self._tasks(call) if facts.name == name), None)
        if found is None:
            return self._failed(f'There is no tool "{name}" that you may use; tools/list lists them.')
        progress = _Progress(report, texts=found.streams)
        try:
            running = self._service.runtime.arun(call.known, name, arguments, written=progress.written)
            output = dict(await self._answering.attended(call, running))
        except LLMasOSError as error:
            return self._failed(str(error))
        except Refused as refusal:
            return self._failed(refusal.failure.message)
        except Left:
            return self._failed("The client has left.")
        finally:
            await progress.close()
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

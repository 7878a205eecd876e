"""``/v1/tasks``: the installed tasks, with the JSON Schemas of what they take and give."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import LLMasOSError, RequestError, TaskFacts
from llmasos_serve_http import sse
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import Refused, failure_of, refused
from llmasos_serve_http.fields import flag, model_of
from llmasos_serve_http.keeping import send_parts
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import FLAG, OBJECT, TEXT, answer, body, listed

_TASK: Final = answer(id=TEXT, object={"const": "task"}, summary=TEXT, inputs=OBJECT, output=OBJECT, streams=FLAG)
_LIST: Final = Operation(answer=listed(_TASK))
_ONE: Final = Operation(answer=_TASK)
_DELTA: Final = answer(object={"const": "task.output.delta"}, task=TEXT, text=TEXT)
_RUN: Final = Operation(
    body=body({"model": TEXT, "inputs": OBJECT, "stream": FLAG}, required=["inputs"]),
    answer=answer(object={"const": "task.output"}, task=TEXT, output=OBJECT),
    events={"anyOf": [_DELTA, answer(error=answer(message=TEXT))]},
)
_DIALECT: Final = OpenAIDialect()


class Tasks:
    """What tasks there are, and running them."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        yield Route("/v1/tasks", Guarded(self._service, "use", _DIALECT, self.tasks, operation=_LIST), methods=["GET"])
        yield Route("/v1/tasks/{name}", Guarded(self._service, "use", _DIALECT, self.task, operation=_ONE), methods=["GET"])
        yield Route("/v1/tasks/{name}", Guarded(self._service, "use", _DIALECT, self.run, operation=_RUN), methods=["POST"])

    async def tasks(self, call: Call) -> None:
        """Those that the client may run."""
        await call.reply({"object": "list", "data": [_described(facts) for facts in await self._found(call)]})

    async def task(self, call: Call) -> None:
        """One of them."""
        await call.reply(_described(await self._named(call)))

    async def run(self, call: Call) -> None:
        """Run one with ``inputs``, by a ``model`` if one is named; the answer is its output, or the pieces of its text where it streams."""
        found = await call.fields()
        model, inputs, stream = model_of(found), found.get("inputs"), flag(found, "stream")
        if not isinstance(inputs, Mapping):
            raise RequestError("inputs must be an object with what the task takes; GET tells its JSON Schema.", "inputs")
        facts = await self._named(call)
        if not stream:
            output = await self._answering.attended(call, self._service.runtime.arun(call.known, facts.name, inputs, model=model))
            await call.reply({"object": "task.output", "task": facts.name, "output": output})
        elif not facts.streams:
            raise RequestError(f'The task "{facts.name}" answers as a whole; leave stream out.', "stream")
        else:
            try:
                await self._answering.attended(call, self._stream(call, facts.name, inputs, model))
            except (Refused, LLMasOSError) as error:
                if not call.started:
                    raise
                failure = failure_of(error)
                call.facts.code = failure.code
                await call.part(sse.event(_DIALECT.error(failure)) + sse.DONE)
                await call.end()

    async def _stream(self, call: Call, name: str, inputs: Mapping[str, Any], model: str | None) -> None:
        """Send the pieces of a task's text."""
        pieces = self._service.runtime.stream_task(call.known, name, inputs, model=model)
        await send_parts(call, _parts(name, pieces), sse.MEDIA_TYPE, sse.COMMENT, self._service.options.comment_every)
        await call.part(sse.DONE)
        await call.end()

    async def _named(self, call: Call) -> TaskFacts:
        for facts in await self._found(call):
            if facts.name == call.path["name"]:
                return facts
        raise refused(404, f"There is no task {call.path['name'][:200]!r} that you may run; /v1/tasks lists them.", "task_not_found")

    async def _found(self, call: Call) -> list[TaskFacts]:
        return await self._service.threads.call(lambda: list(self._service.runtime.tasks(call.known)))


async def _parts(name: str, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
    events = sse.TextEvents(lambda text: {"object": "task.output.delta", "task": name, "text": text})
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            yield events.of(piece) if piece else b""


def _described(facts: TaskFacts) -> dict[str, Any]:
    return {
        "id": facts.name,
        "object": "task",
        "summary": facts.summary,
        "inputs": facts.inputs,
        "output": facts.output,
        "streams": facts.streams,
    }

"""``/v1/tasks``: the installed tasks, with the JSON Schemas of what they take and give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import RequestError, TaskFacts
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import refused
from llmasos_serve_http.fields import model_of
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import FLAG, OBJECT, TEXT, answer, body, listed
from llmasos_serve_http.threads import Threads

_TASK: Final = answer(id=TEXT, object={"const": "task"}, summary=TEXT, inputs=OBJECT, output=OBJECT, streams=FLAG)
_LIST: Final = Operation(answer=listed(_TASK))
_ONE: Final = Operation(answer=_TASK)
_RUN: Final = Operation(
    body=body({"model": TEXT, "inputs": OBJECT}, required=["inputs"]),
    answer=answer(object={"const": "task.output"}, task=TEXT, output=OBJECT),
)


class Tasks:
    """What tasks there are, and running them. ``threads``: a task keeps one until it is done."""

    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        yield Route("/v1/tasks", Guarded(self._service, "use", OpenAIDialect(), self.tasks, operation=_LIST), methods=["GET"])
        yield Route("/v1/tasks/{name}", Guarded(self._service, "use", OpenAIDialect(), self.task, operation=_ONE), methods=["GET"])
        yield Route("/v1/tasks/{name}", Guarded(self._service, "use", OpenAIDialect(), self.run, operation=_RUN), methods=["POST"])

    async def tasks(self, call: Call) -> None:
        """Those that the client may run."""
        await call.reply({"object": "list", "data": [_described(facts) for facts in await self._found(call)]})

    async def task(self, call: Call) -> None:
        """One of them."""
        await call.reply(_described(await self._named(call)))

    async def run(self, call: Call) -> None:
        """Run one with ``inputs``, by a ``model`` if one is named; the answer is its output."""
        found = await call.fields()
        model, inputs = model_of(found), found.get("inputs")
        if not isinstance(inputs, Mapping):
            raise RequestError("inputs must be an object with what the task takes; GET tells its JSON Schema.", "inputs")
        facts = await self._named(call)
        runtime = self._service.runtime
        output = await self._threads.call(lambda: runtime.run(call.known, facts.name, inputs, model=model))
        await call.reply({"object": "task.output", "task": facts.name, "output": output})

    async def _named(self, call: Call) -> TaskFacts:
        for facts in await self._found(call):
            if facts.name == call.path["name"]:
                return facts
        raise refused(404, f"There is no task {call.path['name'][:200]!r} that you may run; /v1/tasks lists them.", "task_not_found")

    async def _found(self, call: Call) -> list[TaskFacts]:
        return await self._service.threads.call(lambda: list(self._service.runtime.tasks(call.known)))


def _described(facts: TaskFacts) -> dict[str, Any]:
    return {
        "id": facts.name,
        "object": "task",
        "summary": facts.summary,
        "inputs": facts.inputs,
        "output": facts.output,
        "streams": facts.streams,
    }

"""Tasks that event loops run: they end where nobody waits any more, whatever they do, and tell what models write for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos.api.pipeline import Pipeline
from llmasos.api.runtime import PipelineRuntime
from llmasos.api.servers import Servers
from llmasos.compose.task_runs import TaskRuns
from llmasos.system.discovery import Registry
from llmasos_hookspecs import Cancelled, Credentials, NotAllowed, Principal, Rejected, RequestError, TaskCall, TaskOutput
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_plugin_calls.task_scope import TaskScope, current_task, task_scope

SECONDS = 60.0
TASK = """
    import threading
    import attrs
    from llmasos_hookspecs import Component, TaskCall, TaskOutput, hookimpl

    FINISHES, ENDED = [], threading.Semaphore(0)

    @attrs.frozen
    class Inputs:
        prompt: str
        times: int = 1

    @attrs.frozen
    class Output:
        text: str

    class Writes:
        inputs, output = Inputs, Output

        def run(self, model, inputs):
            try:
                texts = []
                for _ in range(inputs.times):
                    found = model.generate(inputs.prompt, max_new_tokens=100, ignore_eos=True)
                    FINISHES.append(found.finish_reason)
                    texts.append(found.text)
                return Output("".join(texts))
            finally:
                ENDED.release()

        def events(self, model, inputs):
            try:
                for _ in range(inputs.times):
                    yield TaskCall(kind="called", id="1", tool="write", arguments={})
                    yield from model.stream(inputs.prompt, max_new_tokens=100, ignore_eos=True)
                yield TaskOutput(Output("done"))
            finally:
                ENDED.release()

        def stream(self, model, inputs):
            try:
                for _ in range(inputs.times):
                    yield from model.stream(inputs.prompt, max_new_tokens=100, ignore_eos=True)
            finally:
                ENDED.release()

    @hookimpl
    def llmasos_component(): return Component(summary="Writes.")

    @hookimpl
    def llmasos_create_task(): return Writes()
"""
SILENT = """
    import attrs
    from llmasos_hookspecs import Component, hookimpl

    @attrs.frozen
    class Text:
        text: str

    class Silent:
        inputs = output = Text

        def run(self, model, inputs):
            return inputs

    @hookimpl
    def llmasos_component(): return Component(summary="Tells nothing.")

    @hookimpl
    def llmasos_create_task(): return Silent()
"""
SERVER = (Path(__file__).parents[2] / "examples/server_lines/src/server_lines/__init__.py").read_text(encoding="utf-8")


class Served:
    def __init__(self, pipeline: Pipeline, runtime: PipelineRuntime, module: Any) -> None:
        self.pipeline, self.runtime, self.module = pipeline, runtime, module
        self.principal: Principal = runtime.authenticate(Credentials())

    def run(self, times: int = 1_000_000, **more: Any) -> Any:
        return self.runtime.arun(self.principal, "writes", {"prompt": "otters", "times": times}, **more)

    def stream(self, times: int = 1_000_000) -> Any:
        return self.runtime.stream_task(self.principal, "writes", {"prompt": "otters", "times": times})

    def events(self, times: int = 1_000_000, task: str = "writes", **inputs: Any) -> Any:
        return self.runtime.task_events(self.principal, task, inputs or {"prompt": "otters", "times": times})

    def running(self) -> int:
        found: int = self.pipeline.model.usage().get("running", 0)
        return found

    def ended(self) -> None:
        """The task's thread has come to its end, and nothing of it is left in the engine."""
        assert self.module.ENDED.acquire(timeout=SECONDS)
        asyncio.run(until(lambda: (self.running(), self.runtime.active) == (0, 0)))


async def until(true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("It did not come to be within 60 seconds.")


@pytest.fixture
def served(add: Any, tmp_path: Path) -> Iterator[Served]:
    module = add("task", "writes", TASK)
    add("server", "lines", SERVER)
    add("task", "silent", SILENT)
    tiny_checkpoint(folder=tmp_path / "tiny")
    config = {"model": {"source": str(tmp_path / "tiny")}, "loader": {"use": "onnx", "threads": 1}, "server": [{"use": "lines", "port": 0}]}
    with Pipeline.from_config(config, registry=Registry()) as pipeline:
        servers = Servers(pipeline)
        pipeline.task("writes")  # which imports it
        yield Served(pipeline, servers.runtime, module())
        servers.stop()


async def left(work: Any, when: Callable[[], bool]) -> None:
    """Leave ``work`` once ``when()``."""
    task = asyncio.ensure_future(work)
    await until(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_task_that_nobody_waits_for_ends_within_a_step(served: Served) -> None:
    """In decode: its request ends, the task gets what there is of it, and its next request is refused."""
    asyncio.run(left(served.run(), lambda: served.running() == 1))
    served.ended()
    assert served.module.FINISHES[-1] == "cancelled"
    model = served.pipeline.model
    asyncio.run(left(model.arun("writes", prompt="otters", times=1_000_000), lambda: served.running() == 1))
    served.ended()


def test_a_task_that_waits_for_its_model_ends_before_that_is_there(served: Served) -> None:
    gate, host = threading.Event(), served.pipeline.model._host
    load = host._load
    host._load = lambda *arguments: (gate.wait(SECONDS), load(*arguments))[1]
    first = threading.Thread(target=lambda: served.pipeline.model.generate_text("otters", max_new_tokens=1))
    first.start()
    try:
        asyncio.run(until(lambda: host.state == "loading"))
        asyncio.run(left(served.run(), lambda: served.runtime.active == 1))
        served.ended()
        assert host.state == "loading"
    finally:
        gate.set()
        first.join()


def test_a_stream_that_is_left_ends_its_task(served: Served) -> None:
    async def read() -> None:
        async with contextlib.aclosing(served.stream()) as pieces:
            assert await anext(pieces)

    asyncio.run(read())
    served.ended()


def test_what_a_task_tells_comes_as_it_happens_and_who_leaves_ends_it(served: Served) -> None:
    """Its output is the last, as plain data; a task that tells nothing has that alone."""

    async def read() -> tuple[list[Any], list[Any]]:
        async with contextlib.aclosing(served.events()) as events:
            assert await anext(events) == TaskCall(kind="called", id="1", tool="write", arguments={})
            assert await anext(events)
        return [each async for each in served.events(1)], [each async for each in served.events(task="silent", text="otters")]

    (call, *texts, output), silent = asyncio.run(read())
    served.ended()
    served.ended()
    assert isinstance(call, TaskCall)
    assert "".join(texts) == served.pipeline.run("writes", prompt="otters").text
    assert output == TaskOutput({"text": "done"})
    assert silent == [TaskOutput({"text": "otters"})]


def test_pieces_are_the_tasks_text_and_what_models_write_is_told(served: Served) -> None:
    """On the event loop, with the tokens so far; a refusal is raised before the first piece; both are recorded."""
    told: list[tuple[str, int, int]] = []

    async def both() -> tuple[str, str]:
        whole = await served.run(2, written=lambda text, tokens: told.append((text, tokens, threading.get_ident())))
        return whole["text"], "".join([piece async for piece in served.stream(2)])

    whole, streamed = asyncio.run(both())
    assert whole == streamed == "".join(text for text, _, _ in told)
    assert 0 < sum(tokens for _, tokens, _ in told) <= 200
    assert {thread for _, _, thread in told} == {threading.get_ident()}

    async def wrong() -> None:
        with pytest.raises(RequestError, match="words"):
            await served.runtime.arun(served.principal, "writes", {"words": 1})
        with pytest.raises(RequestError):
            await anext(served.runtime.stream_task(served.principal, "writes", {"words": 1}))
        served.runtime.draining = True
        with pytest.raises(Rejected):
            await anext(served.stream())

    asyncio.run(wrong())


def test_who_may_not_run_a_task_may_not_stream_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.runtime._access.access, "allows", lambda *_: False)

    async def refused() -> None:
        with pytest.raises(NotAllowed):
            await served.run()
        with pytest.raises(NotAllowed):
            await anext(served.stream())
        with pytest.raises(NotAllowed):
            await anext(served.events())

    asyncio.run(refused())


def test_no_more_tasks_wait_than_may() -> None:
    """The one too many is refused at once, and one that ends before its turn does nothing."""
    runs, gate, done = TaskRuns(most=1, waiting=1), threading.Event(), list[str]()

    async def main() -> None:
        first = asyncio.ensure_future(runs.run(lambda: gate.wait(SECONDS)))
        second = asyncio.ensure_future(runs.run(lambda: done.append("second")))
        await asyncio.sleep(0)
        with pytest.raises(Rejected) as refused:
            await runs.run(lambda: None)
        assert refused.value.retry_after
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.ensure_future(runs.run(lambda: done.append("third")))  # in the place of the second, which has not begun
        await asyncio.sleep(0)
        gate.set()
        assert await first
        await asyncio.gather(third, runs.run(lambda: done.append("fourth")))  # in the place of the first, which has ended

    asyncio.run(main())
    runs.close()
    assert done == ["third", "fourth"]


def test_requests_of_a_task_that_has_ended_are_cancelled_when_they_come() -> None:
    class Request:
        def __init__(self) -> None:
            self.cancelled = 0

        def cancel(self) -> None:
            self.cancelled += 1

        def add_done_callback(self, callback: Callable[[], object]) -> None:
            self.done = callback

    early, over, late = Request(), Request(), Request()
    scope = TaskScope()
    assert current_task() is None
    with task_scope(scope):
        assert current_task() is scope
        scope.hold([early, over])
        over.done()
        scope.end()
        scope.end()
        scope.hold([late])
    assert (early.cancelled, over.cancelled, late.cancelled) == (1, 0, 1)
    with pytest.raises(Cancelled), task_scope(scope):
        pass
    assert current_task() is None

"""Conformance tests of observers."""

from __future__ import annotations

import functools
from typing import Any, Final

import pytest

from llmasos_hookspecs.kinds import KINDS
from llmasos_hookspecs.records import RequestRecord, RequestStarted, StepRecord
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.watching import Watched, within

#: Records of requests that ended in every way; fields for events that never happened are None.
RECORDS: Final = {
    "served": RequestRecord(
        id="r1", model="m", tenant="t", queued=1.0, started=1.1, first_token=1.5, finished=3.0, prompt_tokens=7, generated_tokens=9,
        finish_reason="stop", cost=16,
    ),
    "cut": RequestRecord(
        id="r2", model="m", tenant="t", queued=1.0, started=1.0, first_token=1.0, finished=1.0, prompt_tokens=1, generated_tokens=1,
        finish_reason="length",
    ),
    "cancelled while it waited": RequestRecord(
        id="r3", model="m", tenant="t", queued=1.0, finished=1.0, prompt_tokens=7, finish_reason="cancelled"
    ),
    "rejected": RequestRecord(
        id="r4", model="m", tenant="", queued=1.0, finished=1.0, prompt_tokens=7, finish_reason="rejected", error="The queue is full."
    ),
    "failed": RequestRecord(
        id="请求 🙂", model="模型", tenant="租户", queued=1.0, started=2.0, finished=9.0, prompt_tokens=7, finish_reason="error",
        error="The engine failed: 100% {of} it.", preemptions=3,
    ),
}  # fmt: skip


#: What the other two hooks of requests get.
EVENTS: Final = {
    "llmasos_request_started": (
        RequestStarted(id="r1", model="m", tenant="t", queued=1.0, started=1.0, prompt_tokens=7, max_new_tokens=1),
        RequestStarted(
            id="请求 🙂", model="模型", tenant="租户", priority=-3, queued=1.0, started=9.5, prompt_tokens=7, cached_tokens=6,
            max_new_tokens=99,
        ),
    ),
    "llmasos_step": (
        StepRecord(
            model="m", time=2.0, steps=0, seconds=0.0, prefill_tokens=0, decode_tokens=0, running=0, waiting=0, kv_used=0, kv_capacity=0
        ),
        StepRecord(
            model="模型", replica=3, time=2.5, steps=40, seconds=0.5, prefill_tokens=512, decode_tokens=160, preemptions=2, running=8,
            waiting=900, kv_used=7000, kv_cached=900, kv_capacity=8000,
        ),
    ),
}  # fmt: skip

#: Seconds in which an observer's hook returns.
SECONDS: Final = 20.0

#: Names of methods with which an observer would give a pipeline work or change it, on any of its objects.
_WORK: Final = frozenset(
    {
        *("close", "load", "unload", "run", "stream", "task", "accelerate", "measure", "use_scheduler", "prefer_throughput"),
        *("generate", "generate_text", "stream_text", "chat", "batch", "score", "choose", "embed", "logits"),
    }
)


class ObserverConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves its observer::

    class TestConformance(ObserverConformance):
        module = "llmasos_mine"
    """

    kind = "observer"

    def tell(self, sandbox: PluginSandbox, context: SandboxContext, hook: str, **arguments: Any) -> None:
        """Call one of the observer's hooks as core does."""
        sandbox.call(hook, options=self.plugin_options(sandbox), context=context, **arguments)

    @pytest.mark.parametrize("record", RECORDS)
    def test_takes_every_record(self, sandbox: PluginSandbox, context: SandboxContext, record: str) -> None:
        """The observer accepts the records of requests that ended in every way."""
        if not sandbox.has("llmasos_request_finished"):
            pytest.skip("The observer does not look at requests.")
        self.tell(sandbox, context, "llmasos_request_finished", record=RECORDS[record])

    @pytest.mark.parametrize("hook", EVENTS)
    def test_takes_every_event(self, sandbox: PluginSandbox, context: SandboxContext, hook: str) -> None:
        """The observer accepts requests that start and steps, also of a model that computed nothing."""
        if not sandbox.has(hook):
            pytest.skip(f"The observer does not implement {hook}.")
        for record in EVENTS[hook]:
            self.tell(sandbox, context, hook, record=record)

    def test_outlives_pipelines(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """Several pipelines may start and close, also at the same time."""
        one, two = Watched(), Watched()
        events = [("ready", one), ("ready", two), ("closed", one), ("closed", two), ("ready", one), ("closed", one)]
        for event, pipeline in events:
            if sandbox.has(f"llmasos_pipeline_{event}"):
                self.tell(sandbox, context, f"llmasos_pipeline_{event}", pipeline=pipeline)

    @pytest.mark.parametrize("hook", KINDS["observer"].hooks)
    def test_is_quick_and_only_looks(self, sandbox: PluginSandbox, context: SandboxContext, hook: str) -> None:
        """Each hook returns within a few seconds, and neither sends the pipeline requests nor closes it: a slow observer misses later
        events, and its own requests would be reported to it too."""
        if not sandbox.has(hook):
            pytest.skip(f"The observer does not implement {hook}.")
        pipeline = Watched()
        calls: list[tuple[str, dict[str, Any]]] = [("llmasos_pipeline_ready", {"pipeline": pipeline})]
        if hook != calls[0][0]:
            record = RECORDS["served"] if hook == "llmasos_request_finished" else EVENTS[hook][0] if hook in EVENTS else None
            calls.append((hook, {"pipeline": pipeline} if record is None else {"record": record}))
        for name, arguments in calls:
            if sandbox.has(name):
                ended = within(SECONDS, functools.partial(self.tell, sandbox, context, name, **arguments))
                assert ended, f"{name} did not return in {SECONDS:g} seconds; hand long work to a thread of your own."
        meddled = [name for name in pipeline.asked if name in _WORK or name.startswith("_") or name.endswith(" =")]
        assert not meddled, f"The observer asked the pipeline for {meddled[0]}; an observer only looks."

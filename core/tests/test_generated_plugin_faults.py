"""Sources, loaders, schedulers, accelerators and tasks that fail or stall at every call in turn, once and for ever, under eight callers.

Each caller has an answer or an error that names the plugin within the bound, nothing is held afterwards, and the next caller is served.
Engines and policies at work are in ``engine/test_generated_faults.py``. ``LLMASOS_FAULTS=all`` tries every call; else first or last.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
from core.tests.cli.fork_server import ForkServer, with_plugins
from core.tests.planted import ERRORS, Fault

from llmasos.api.pipeline import Pipeline
from llmasos.system.discovery import Registry
from llmasos_hookspecs import LLMasOSError, PluginError
from llmasos_model_store.folders import cache_folder

pytestmark = pytest.mark.slow

SECONDS = 120.0  # after which a caller counts as one who waits for ever
ALL = os.environ.get("LLMASOS_FAULTS") == "all"
CALLERS = 8

#: method -> the kind of the plugin, and the option that bounds the call.
METHODS = {
    "llmasos_fetch": ("source", "fetch_timeout"),
    "takes": ("loader", "load_timeout"),
    "llmasos_predict": ("loader", "load_timeout"),
    "llmasos_load": ("loader", "load_timeout"),
    "llmasos_create_scheduler": ("scheduler", "load_timeout"),
    "plan": ("accelerator", "load_timeout"),
    "llmasos_accelerate": ("accelerator", "stage_timeout"),
    "llmasos_create_task": ("task", "load_timeout"),
    "run": ("task", "task_timeout"),
    "stream": ("task", "task_timeout"),
}

HEAD = """
    from pathlib import Path
    import attrs
    from llmasos_hookspecs import *
    from llmasos_hookspecs.testing import ReferenceEngine

    def strike(method):
        import planted_fault  # which the process that describes plugins lacks

        planted_fault.strike(method)  # another one for each pipeline
"""

PLUGINS = {
    "source": """
        @attrs.frozen
        class Options:
            root: str = ""

        @hookimpl
        def llmasos_component(): return Component(summary="Shelves.", options=Options, schemes=("shelf",))

        @hookimpl
        def llmasos_fetch(ref, options, context):
            with context.progress("fetching", 2) as shown:
                strike("llmasos_fetch")
                shown.advance()
                strike("llmasos_fetch")
            return Path(options.root)
    """,
    "loader": """
        def takes(checkpoint): strike("takes")

        @hookimpl
        def llmasos_component(): return Component(summary="Reference.", takes=takes)

        @hookimpl
        def llmasos_predict(checkpoint):
            strike("llmasos_predict")
            return MemoryEstimate(weight_bytes=2**20, kv_bytes_per_token=1000)

        @hookimpl
        def llmasos_load(checkpoint, context):
            strike("llmasos_load")
            return ReferenceEngine(checkpoint, context.limits)
    """,
    "scheduler": """
        class Fifo:
            def admit(self, request, stats): return Admit()
            def rank(self, sequence, now): return (sequence.request.arrival, sequence.request.id)
            def victim(self, running, needy, now): return None
            def quantum(self, sequence, budget): return budget
            def on_commit(self, charges): pass

        @hookimpl
        def llmasos_component(): return Component(summary="First come.")

        @hookimpl
        def llmasos_create_scheduler():
            strike("llmasos_create_scheduler")
            return Fifo()
    """,
    "accelerator": """
        def plan(decoder, options, state):
            strike("plan")
            return StagePlan()

        @hookimpl
        def llmasos_component(): return Component(summary="Copies.", stage="mask", plan=plan)

        @hookimpl
        def llmasos_accelerate(checkpoint, output, context):
            strike("llmasos_accelerate")
            with context.writer(checkpoint, output) as writer:
                for name in checkpoint.names():
                    writer.add(name, checkpoint.tensor(name) * 0.5)
                strike("llmasos_accelerate")
            return writer.result()
    """,
    "task": """
        @attrs.frozen
        class In:
            text: str

        @attrs.frozen
        class Out:
            text: str

        class Mine:
            inputs, output = In, Out

            def run(self, model, inputs):
                strike("run")
                text = model.generate(inputs.text, max_new_tokens=3, ignore_eos=True).text
                strike("run")
                return Out(text)

            def stream(self, model, inputs):
                strike("stream")
                for piece in model.stream(inputs.text, max_new_tokens=3, ignore_eos=True):
                    yield piece
                    strike("stream")

        @hookimpl
        def llmasos_component(): return Component(summary="Mine.")

        @hookimpl
        def llmasos_create_task():
            strike("llmasos_create_task")
            return Mine()
    """,
}


#: What a hook may raise; a full KV cache is none of its concerns.
RAISED = [name for name in ERRORS if name != "CapacityExceeded"]


@attrs.define
class Trial:
    """Pipelines of five plugins, one of which fails."""

    tiny: Path
    planted: ModuleType
    pipelines: list[Pipeline] = attrs.field(factory=list)
    faults: list[Fault] = attrs.field(factory=list)

    def start(self, fault: Fault, **timeouts: float) -> Pipeline:
        self.planted.strike = fault.strike
        self.faults.append(fault)
        shutil.rmtree(cache_folder() / "loads", ignore_errors=True)  # else nothing is predicted, for a load was measured
        config = {
            "seed": len(self.faults),  # else a stage is found in the cache
            "model": {"source": "shelf:tiny"},
            "sources": {"mine_source": {"root": str(self.tiny)}},
            "loader": "mine_loader",
            "scheduler": "mine_scheduler",
            "accelerate": ["mine_accelerator"],
            "resources": {"memory": "1GiB", **timeouts},
        }
        self.pipelines.append(Pipeline.from_config(config, registry=Registry()))
        return self.pipelines[-1]

    def call(self, pipeline: Pipeline) -> list[Any]:
        """What eight callers at once are answered or told; half of them read pieces."""
        outcomes: list[Any] = [None] * CALLERS

        def ask(number: int) -> None:
            try:
                if number % 2:
                    outcomes[number] = "".join(pipeline.stream("mine_task", text=f"prompt {number}"))
                else:
                    outcomes[number] = pipeline.run("mine_task", text=f"prompt {number}").text
            except BaseException as error:
                outcomes[number] = error

        callers = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(SECONDS)
        assert None not in outcomes, f"{outcomes.count(None)} callers wait for ever"
        wrong = [each for each in outcomes if not isinstance(each, str | LLMasOSError)]
        assert not wrong, wrong
        return outcomes

    def check_balance(self, pipeline: Pipeline) -> None:
        """Nothing is queued, held or leased."""
        usage = pipeline.usage()["default"]
        if usage["state"] == "loaded":
            pipeline.hosts["default"].trim()
            usage = pipeline.usage()["default"]
            assert (usage["running"], usage["waiting"], usage["kv_used"], usage["kv_cached"]) == (0, 0, 0, 0)
        else:
            assert (usage["weight_bytes"], usage["kv_bytes"]) == (0, 0)
        assert usage["leases"] == 0


@pytest.fixture
def trial(add: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    planted = ModuleType("planted_fault")
    monkeypatch.setitem(sys.modules, "planted_fault", planted)
    for kind, code in PLUGINS.items():
        add(kind, f"mine_{kind}", textwrap.dedent(HEAD) + textwrap.dedent(code))
    made = Trial(tiny, planted)
    yield made
    for fault in made.faults:
        fault.released.set()
    for pipeline in made.pipelines:
        pipeline.close()


#: Which call fails, and whether it fails for ever; the last of however many there are is -1.
CASES = [(0, False), (-1, True), (0, True), (-1, False)]


def cases(count: int, turn: int) -> list[tuple[int, bool]]:
    """Number of the call and ``for_ever`` of each fault to try: one for each test, in turn."""
    if ALL:
        return [(at, for_ever) for at in range(count) for for_ever in (False, True)]
    at, for_ever = CASES[turn % len(CASES)]
    return [(at % count, for_ever)]


@pytest.fixture
def faultless(trial: Trial) -> tuple[list[str], Counter[str]]:
    """The right answers, and how often each method is called for them."""
    if not _faultless:
        fault = Fault()
        pipeline = trial.start(fault)
        right = trial.call(pipeline)
        assert all(isinstance(each, str) for each in right), right
        trial.check_balance(pipeline)
        close(pipeline)
        _faultless.append((right, fault.calls))
    return _faultless[0]


_faultless: list[tuple[list[str], Counter[str]]] = []


def close(pipeline: Pipeline) -> None:
    """Close it on a thread, within the bound."""
    thread = threading.Thread(target=pipeline.close, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "closing waits for ever"


def pairs() -> Iterator[Any]:
    """Every method with three of the errors, and every error with five of the methods; where all are tried, each with each. A third
    of them are tried on each change: every method, every error, and each of ``CASES``."""
    for place, method in enumerate(METHODS):
        for number, error in enumerate(RAISED):
            if ALL or (place + number) % 2 == 0:
                turn = (number // 2 - place) % 3
                yield pytest.param(method, error, marks=[] if ALL or not turn else [pytest.mark.long])


#: Methods whose stall is bounded by the same option, at the same moment, as that of another.
ALIKE = {"takes", "plan", "llmasos_create_task", "llmasos_create_scheduler"}


@pytest.mark.parametrize(("method", "error"), list(pairs()))
def test_a_plugin_that_fails_keeps_nobody_waiting(trial: Trial, faultless: Any, method: str, error: str) -> None:
    """Each caller has an answer, or an error that says what the plugin did; once it is over, the next caller is served."""
    right, calls = faultless
    kind = METHODS[method][0]
    assert calls[method], f"{method} is never asked"
    for at, for_ever in cases(calls[method], list(METHODS).index(method) + RAISED.index(error) // 2):
        fault = Fault(method, at, ERRORS[error], for_ever)
        pipeline = trial.start(fault)
        outcomes = trial.call(pipeline)
        if at == 0:
            assert fault.reached.is_set()
            assert [each for each in outcomes if isinstance(each, LLMasOSError)]
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                assert outcome == right[number]
            elif error != "EngineFailed":  # which is a sentence of its own
                assert f'{kind} "mine_{kind}" (made-mine_{kind} 1.0)' in str(outcome), outcome
        if not for_ever:
            fault.method = ""  # this run may have taken fewer calls than the one that was counted
            assert trial.call(pipeline) == right
        trial.check_balance(pipeline)
        close(pipeline)


@pytest.mark.parametrize("method", [pytest.param(each, marks=[pytest.mark.long] * (not ALL and each in ALIKE)) for each in METHODS])
def test_a_plugin_that_stalls_keeps_nobody_waiting(trial: Trial, faultless: Any, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """All callers are told within the bound which plugin it was and which option bounds it, and closing returns while it stalls."""
    kind, option = METHODS[method]
    for at, for_ever in cases(faultless[1][method], list(METHODS).index(method)):
        fault = Fault(method, at, None, for_ever)
        pipeline = trial.start(fault, **{option: 2.0 if kind == "task" else 1.0})
        if kind == "task":
            pipeline.load()  # which would count as the task's time
        outcomes = trial.call(pipeline)
        told = [each for each in outcomes if isinstance(each, LLMasOSError)]
        assert told or not fault.reached.is_set()
        for each in told:
            assert isinstance(each, PluginError), each
            assert f'{kind} "mine_{kind}" (made-mine_{kind} 1.0)' in str(each), each
            assert f"resources.{option}" in str(each), each
        if not for_ever:
            fault.method = ""
            assert trial.call(pipeline) == faultless[0]
        trial.check_balance(pipeline)
        close(pipeline)
        fault.released.set()


def test_a_model_that_is_closed_while_it_loads_is_freed_when_it_has_loaded(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for ever, the caller is told, and the engine that comes too late is shut down."""
    from llmasos_hookspecs.testing import ReferenceEngine

    gone = threading.Event()
    monkeypatch.setattr(ReferenceEngine, "shutdown", lambda _self: gone.set())
    fault = Fault("llmasos_load", 0)
    pipeline = trial.start(fault)
    monkeypatch.setattr(pipeline._process.residency, "_close_timeout", 0.2)
    found: list[BaseException] = []

    def load() -> None:
        try:
            pipeline.load()
        except BaseException as error:
            found.append(error)

    caller = threading.Thread(target=load, daemon=True)
    caller.start()
    assert fault.reached.wait(SECONDS)
    close(pipeline)
    assert not gone.is_set()
    fault.released.set()
    caller.join(SECONDS)
    assert "closed" in str(found[0])
    assert gone.wait(SECONDS)


def test_the_requests_of_a_task_end_at_its_timeout(trial: Trial) -> None:
    """A task that waits for a busy model is told that its request is late; the plugin is not blamed."""
    pipeline = trial.start(Fault(), task_timeout=1.0)
    model = pipeline.load()
    gate, reached = threading.Event(), threading.Event()
    loop = model._host._loaded().loop
    step = loop._engine._engine.step

    def busy(rows: Any) -> Any:
        reached.set()
        assert gate.wait(SECONDS)
        return step(rows)

    loop._engine._engine.step = busy
    ticket = model._submit("first", {"max_new_tokens": 1})
    assert reached.wait(SECONDS)
    with pytest.raises(LLMasOSError, match="passed its deadline"):
        pipeline.run("mine_task", text="x")
    gate.set()
    assert ticket.result(SECONDS)


def test_the_process_ends_though_a_source_does_not(tmp_path: Path, add: Any, fork_server: ForkServer) -> None:
    """The caller is told at the bound, and the program has its own exit status while the source still stalls."""
    add(
        "source",
        "mine_source",
        "import threading\n"
        + textwrap.dedent("""
        from llmasos_hookspecs import Component, hookimpl

        @hookimpl
        def llmasos_component(): return Component(summary="Stalls.", schemes=("shelf",))

        @hookimpl
        def llmasos_fetch(ref): threading.Event().wait()
    """),
    )
    arguments = ["run", "x", "--model", "shelf:x", "--set", "resources.fetch_timeout=0.5"]
    done = fork_server.said(*arguments, folder=tmp_path, **with_plugins(tmp_path))
    assert done.returncode == 1, done.stderr
    assert 'source "mine_source" (made-mine_source 1.0) made no progress in llmasos_fetch for 0.5 seconds' in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr

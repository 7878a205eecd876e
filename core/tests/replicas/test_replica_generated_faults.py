"""Engines and policies in replicas that fail or stall at every call in turn, once and for ever, under callers and streams.

Each caller has an answer or an error within the bound, every ticket ends once, what has died is replaced a few times only, and no process
is left at the end. ``LLMASOS_FAULTS=all`` tries every method with every error, at several calls, once and for ever; ``make test-long``
every method with every error once, and each change some methods with one of them.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from core.tests.cli.fork_server import RESCAN
from core.tests.conftest import put_first
from core.tests.forked_children import ForkedChildren
from hypothesis import settings

from llmasos.api.pipeline import Pipeline
from llmasos.compose.generation_params import GenerationParams
from llmasos.system.discovery import Registry
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.slow
SECONDS = 120.0  # after which a caller counts as one who waits for ever
ALL = os.environ.get("LLMASOS_FAULTS") == "all"
LONG = settings.default.max_examples >= 500
ENGINE = ("open", "step", "truncate", "fork", "close", "shutdown")
POLICY = ("admit", "rank", "victim", "quantum", "on_commit")
#: Methods that are called whatever the order in which requests come.
CERTAIN = {"open", "step", "admit", "rank", "quantum", "on_commit", "shutdown"}
#: Methods that each change has raise, and those that it has stall: a replica goes on, or is replaced, alike whichever method it is, so that
#: the others only widen this. ``test_generated_faults.py`` of the engine has each of them fail in this process.
RAISING = {*ENGINE, *POLICY} if ALL else {"open", "step", "close", "shutdown", "rank", "on_commit"}
STALLING = {*ENGINE, *POLICY} if ALL else {"step"}


def methods(usual: set[str]) -> list[Any]:
    return [pytest.param(each, marks=[pytest.mark.long] * (each not in usual)) for each in (*ENGINE, *POLICY)]


#: Methods that are not called again after they have failed, until the model is loaded anew.
GIVEN_UP = {"fork", "rank"}
ERRORS = ("RuntimeError", "EngineFailed", "CapacityExceeded", "MemoryError", "SystemExit", "KeyboardInterrupt", "TwoArguments")

PLUGINS = '''
    """A loader and a scheduler with the fault that the file at LLMASOS_TEST_FAULT describes; it is read again at each call."""

    import json
    import os
    import threading
    from collections import Counter

    import attrs
    from llmasos_hookspecs import Admit, CapacityExceeded, Component, EngineFailed, hookimpl
    from llmasos_hookspecs.testing import ReferenceEngine

    PLACE = os.environ["LLMASOS_TEST_FAULT"]

    class TwoArguments(EngineFailed):
        def __init__(self, what, why):
            super().__init__(f"{what}, because {why}")
            self.lock = threading.Lock()

    ERRORS = {
        "RuntimeError": lambda: RuntimeError("planted"),
        "EngineFailed": lambda: EngineFailed("planted"),
        "CapacityExceeded": lambda: CapacityExceeded("planted"),
        "MemoryError": MemoryError,
        "SystemExit": lambda: SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt,
        "TwoArguments": lambda: TwoArguments("the plant withered", "nobody watered it"),
    }
    calls, number = Counter(), [None]

    @attrs.frozen
    class Options:
        max_sequences: int = 8

    def first(mark):
        """Whether no process was here before."""
        try:
            os.close(os.open(f"{PLACE}.{mark}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def strike(method):
        with open(PLACE) as file:
            fault = json.load(file)
        if number[0] != fault["number"]:
            calls.clear()
            number[0] = fault["number"]
        call = calls[method]
        calls[method] += 1
        if fault["count"]:
            with open(PLACE + ".calls", "a") as file:
                file.write(method + "\\n")
        if (method, fault["method"]) == ("step", "shutdown") and first(f"{fault['number']}.why"):
            raise EngineFailed("planted, so that the engine is shut down")
        if method != fault["method"] or call < fault["at"] or not (first(fault["number"]) or fault["for_ever"]):
            return
        if fault["error"] == "stall":
            threading.Event().wait()
        raise ERRORS[fault["error"]]()

    class Faulty:
        def __init__(self, inner, methods):
            self._inner, self._methods = inner, methods

        def __getattr__(self, name):
            found = getattr(self._inner, name)
            if name not in self._methods:
                return found

            def call(*arguments):
                strike(name)
                return found(*arguments)

            return call

    class Restless:
        def admit(self, request, stats): return Admit()
        def rank(self, sequence, now): return (sequence.request.priority, sequence.request.arrival, sequence.request.id)
        def victim(self, running, needy, now):
            worst = max(running, key=lambda sequence: self.rank(sequence, now))
            return worst.request.id if worst.request.priority > needy.request.priority else None
        def quantum(self, sequence, budget): return min(budget, 7)
        def on_commit(self, charges): pass

    @hookimpl
    def llmasos_component(): return Component(summary="Fails.", options=Options)

    @hookimpl
    def llmasos_load(checkpoint, context):
        return Faulty(ReferenceEngine(checkpoint, context.limits), ENGINE)

    @hookimpl
    def llmasos_create_scheduler():
        return Faulty(Restless(), POLICY)
'''


@attrs.frozen
class Fault:
    """Fails call number ``at`` of ``method`` in each process: the first that gets there once, or all of them for ever."""

    method: str = ""
    error: str = "stall"
    at: int = 0
    for_ever: bool = False


@attrs.define
class Trial:
    """Two replicas of the tiny model, whose fault changes."""

    pipeline: Pipeline
    place: Path
    number: int = 0
    pids: set[int] = attrs.field(factory=set)

    def plant(self, fault: Fault, *, count: bool = False) -> None:
        self.number += 1
        fresh = self.place.with_suffix(".new")
        fresh.write_text(json.dumps({**attrs.asdict(fault), "number": self.number, "count": count}), encoding="utf-8")
        fresh.replace(self.place)

    @property
    def struck(self) -> bool:
        return Path(f"{self.place}.{self.number}").exists()

    def submit(self) -> list[Any]:
        """Tickets of generations, streams, several of one prompt, scores and logits; an error where the model is gone already."""
        model, host = self.pipeline.model, self.pipeline.hosts["default"]
        plain = GenerationParams.of({})
        made: list[Any] = []

        def add(submit: Callable[[], Any]) -> None:
            try:
                found = submit()
            except LLMasOSError as error:
                found = error
            made.extend(found if isinstance(found, list) else [found])

        for number in range(6):
            options = {"max_new_tokens": 5, "ignore_eos": True, "priority": 6 - number, "tenant": "ab"[number % 2]}
            add(lambda number=number, options=options: model._submit(f"One beginning, {number}", options))
        add(lambda: model._submit_many("One beginning, many", 2, {"max_new_tokens": 4, "ignore_eos": True, "temperature": 1.0, "seed": 1}))
        add(lambda: host.submit(lambda running: running.scores("One beginning", [" and an end", " and another"], plain)))
        add(lambda: host.submit(lambda running: running.logits([5, 6, 7, 8], None, plain)))
        return made

    def run(self) -> list[Any]:
        """Everybody's answer or error; half of the callers read pieces."""
        made = self.submit()
        ends: Counter[int] = Counter()
        outcomes: dict[int, Any] = {}

        def wait(number: int, ticket: Ticket[Any]) -> None:
            try:
                if number % 2:
                    "".join(ticket)
                outcomes[number] = ticket.result(SECONDS)
            except BaseException as error:
                outcomes[number] = error

        callers = []
        for number, ticket in enumerate(made):
            if isinstance(ticket, LLMasOSError):
                outcomes[number] = ticket
                continue
            ticket.add_done_callback(lambda number=number: ends.update([number]))
            callers.append(threading.Thread(target=wait, args=(number, ticket), daemon=True))
            callers[-1].start()
        for caller in callers:
            caller.join(SECONDS)
        assert len(outcomes) == len(made), "somebody waits for ever"
        assert set(ends.values()) <= {1}
        wrong = [each for each in outcomes.values() if isinstance(each, BaseException) and not isinstance(each, LLMasOSError)]
        assert not wrong, wrong
        return [outcomes[number] for number in range(len(made))]

    def check_recovered(self) -> None:
        """Two replicas serve again, with no request and no memory held."""
        self.plant(Fault())
        deadline = time.monotonic() + SECONDS
        while True:  # a model that was lost is loaded by the next request
            try:
                assert len(self.pipeline.model.generate("again", max_new_tokens=3, ignore_eos=True).tokens) == 3
                break
            except LLMasOSError:  # sent to a model that is about to be lost
                assert time.monotonic() < deadline
        host = self.pipeline.hosts["default"]
        while True:
            found = host.usage()["replicas"]
            self.pids.update(each["pid"] for each in found if each["pid"] is not None)  # None: about to be started
            if len(found) == 2 and all(each["state"] == "ready" and not each["requests"] for each in found):
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        host.trim()
        while host.usage()["kv_used"] or host.usage()["kv_cached"]:
            assert time.monotonic() < deadline, host.usage()
            time.sleep(0.02)
        usage = host.usage()
        assert (usage["running"], usage["waiting"], usage["leases"]) == (0, 0, 0)
        with host.lease() as running:
            assert all(not each.jobs for each in running.loop._replicas.values())


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("replicas")
    tiny_checkpoint(folder=folder / "tiny")
    info = folder / "site" / "made_failing-1.0.dist-info"
    info.mkdir(parents=True)
    code = textwrap.dedent(PLUGINS).replace("ENGINE", repr(ENGINE)).replace("POLICY", repr(POLICY))
    (folder / "site" / "made_failing.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-failing\nVersion: 1.0\n", encoding="utf-8")
    points = "[llmasos.loaders]\nfaulty = made_failing\n[llmasos.schedulers]\nrestless = made_failing\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        put_first(patch, folder / "site")
        patch.setenv("LLMASOS_HOME", str(folder / "home"))
        patch.setenv("LLMASOS_TEST_FAULT", str(folder / "fault.json"))
        config = {
            "model": {"source": str(folder / "tiny"), "replicas": 2, "context_length": 96},
            "loader": "faulty",
            "scheduler": {"use": "restless", "max_sequences": 2},
            "resources": {"step_timeout": 1.5},
        }
        made = Trial(Pipeline.from_config(config, registry=Registry()), folder / "fault.json")
        made.plant(Fault())
        made.check_recovered()
        yield made
        closing = threading.Thread(target=made.pipeline.close, daemon=True)
        closing.start()
        closing.join(SECONDS)
        assert not closing.is_alive(), "closing waits for ever"
        assert not [pid for pid in made.pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def calls(trial: Trial) -> Counter[str]:
    """How often each method is called in both replicas together where nothing fails."""
    trial.plant(Fault(), count=True)
    outcomes = trial.run()
    assert not [each for each in outcomes if isinstance(each, BaseException)], outcomes
    trial.check_recovered()
    return Counter(Path(f"{trial.place}.calls").read_text(encoding="utf-8").split())


def places(count: int) -> list[int]:
    """The first call, the second, one in the middle and one of the last of those that one of two replicas makes."""
    return sorted({0, 1, count // 4, count // 2 - 1} & set(range(max(1, count))))


def check(trial: Trial, fault: Fault) -> list[Any]:
    if fault.method in GIVEN_UP:
        trial.pipeline._process.residency.unload(trial.pipeline.hosts["default"].tracked)
    trial.plant(fault)
    outcomes = trial.run()
    assert trial.struck or fault.at or fault.method not in CERTAIN
    told = [each for each in outcomes if isinstance(each, LLMasOSError)]
    for each in told:
        assert any(word in str(each) for word in ("(made-failing 1.0)", "Replica", "replica", "planted")), each
    trial.check_recovered()
    return told


@pytest.mark.parametrize("method", methods(RAISING))
def test_a_method_that_raises_once_in_a_replica_keeps_nobody_waiting(trial: Trial, calls: Counter[str], method: str) -> None:
    """Whatever it raises, at whichever call: each caller is answered or told, and both replicas serve again."""
    assert calls[method] or method == "shutdown", f"{method} is never called"
    found = places(calls[method])
    first = [*ENGINE, *POLICY].index(method)  # on each change one error and call for each method, others for the next one
    errors = ERRORS if ALL or (LONG and method not in GIVEN_UP) else [ERRORS[first % len(ERRORS)]]
    for turn, error in enumerate(errors, first):
        for at in found if ALL else [found[turn % len(found)]]:
            told = check(trial, Fault(method, error, at))
            assert method in ENGINE or not told  # core decides in the place of a policy that fails


@pytest.mark.parametrize("method", methods(STALLING))
def test_a_method_that_stalls_once_in_a_replica_keeps_nobody_waiting(trial: Trial, calls: Counter[str], method: str) -> None:
    """Its process is replaced; what it had begun fails with an error that names the plugin."""
    found = places(calls[method])
    for at in found if ALL else [found[len(method) % len(found)]]:
        check(trial, Fault(method, "stall", at))


@pytest.mark.parametrize(
    ("method", "error"),
    [(method, error) for method in (*ENGINE, *POLICY) for error in (*ERRORS, "stall")]
    if ALL
    else [
        ("step", "EngineFailed"),
        pytest.param("open", "RuntimeError", marks=pytest.mark.long),
        pytest.param("step", "stall", marks=pytest.mark.long),
        ("rank", "SystemExit"),
    ],
)
def test_a_method_that_fails_for_ever_in_all_replicas_keeps_nobody_waiting(trial: Trial, method: str, error: str) -> None:
    """The processes are replaced a few times only; then the model is lost, all callers are told, and its next use loads it again."""
    told = check(trial, Fault(method, error, 0, for_ever=True))
    if method in ("step", "open") and error in ("EngineFailed", "RuntimeError", "stall"):
        assert told


def test_the_processes_end_with_a_program_that_closes_nothing(trial: Trial, tmp_path: Path, children: ForkedChildren) -> None:
    """Though their engines stall: the program has its own status, and no replica is left."""
    place = tmp_path / "fault.json"
    place.write_text(json.dumps({**attrs.asdict(Fault("step")), "number": 1, "count": False}), encoding="utf-8")
    code = f"""if True:
        import sys, time
        sys.path.insert(0, {str(trial.place.parent / "site")!r})
        {RESCAN.strip()}
        from llmasos.api.pipeline import Pipeline
        model = {{"source": {str(trial.place.parent / "tiny")!r}, "replicas": 2, "context_length": 96}}
        pipeline = Pipeline.from_config({{"model": model, "loader": "faulty", "scheduler": "restless"}})
        tickets = [pipeline.model._submit("x", {{"max_new_tokens": 3}}) for _ in range(4)]
        while not __import__("os").path.exists({str(place) + ".1"!r}):
            time.sleep(0.01)
        print(*(each["pid"] for each in pipeline.hosts["default"].usage()["replicas"]))
        raise SystemExit(7)
    """
    environment = {**os.environ, "LLMASOS_TEST_FAULT": str(place)}
    program = children.Popen(
        [sys.executable, "-I", "-c", code], stdin=children.DEVNULL, stdout=children.PIPE, stderr=children.PIPE, env=environment
    )
    assert program.stdout is not None
    assert program.stderr is not None
    with program.stdout, program.stderr:
        said, error = program.stdout.read(), program.stderr.read()
    assert program.wait(SECONDS) == 7, error
    pids = [int(pid) for pid in said.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a replica outlives its program"
        time.sleep(0.02)

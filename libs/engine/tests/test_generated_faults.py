"""Engines and policies that fail at every call in turn, once and for ever: nobody waits for ever, and nothing is left out of balance.

``LLMASOS_FAULTS=all`` tries every call; else the first, the second and a few later ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
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
from core.tests.planted import ERRORS, Fault

from llmasos_engine.supervised import STEP_SECONDS
from llmasos_engine.ticket import ResultTimeout, Ticket
from llmasos_hookspecs import Cancelled, EngineFailed, LLMasOSError

SECONDS = 120.0  # after which a caller counts as one who waits for ever
ALL = os.environ.get("LLMASOS_FAULTS") == "all"
ENGINE = ("open", "step", "truncate", "fork", "close", "shutdown")
POLICY = ("admit", "rank", "victim", "quantum", "on_commit")


class Faulty:
    """Anything, with a fault in one of its methods."""

    def __init__(self, inner: Any, fault: Fault, methods: tuple[str, ...]) -> None:
        self._inner, self._fault, self._methods = inner, fault, methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        def call(*arguments: Any) -> Any:
            self._fault.strike(name)
            return found(*arguments)

        return call


class Restless:
    """A policy that preempts whenever it may, so that all that a policy and an engine can be asked is asked."""

    def __init__(self, admit: Any) -> None:
        self._admit = admit

    def admit(self, request: Any, stats: Any) -> Any:
        return self._admit

    def rank(self, sequence: Any, now: float) -> Any:
        return (sequence.request.priority, sequence.request.arrival, sequence.request.id)

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        worst = max(running, key=lambda sequence: self.rank(sequence, now))
        return worst.request.id if worst.request.priority > needy.request.priority else None

    def quantum(self, sequence: Any, budget: int) -> int:
        return min(budget, 7)

    def on_commit(self, charges: Any) -> None:
        pass


@attrs.define
class Trial:
    """One loop with one fault, and eight callers and more."""

    hash_engine: Any
    request_of: Any
    make_loop: Any
    admit: Any
    fault: Fault
    policy_fault: Fault
    records: Counter[str] = attrs.field(factory=Counter)
    engines: list[Any] = attrs.field(factory=list)
    lost: threading.Event = attrs.field(factory=threading.Event)
    answers: dict[str, Any] = attrs.field(factory=dict)
    loop: Any = None

    def engine(self) -> Faulty:
        self.engines.append(self.hash_engine(max_sequences=4, context_length=64))
        return Faulty(self.engines[-1], self.fault, ENGINE)

    def start(self, **options: Any) -> None:
        policy = Faulty(Restless(self.admit), self.policy_fault, POLICY)
        self.loop = self.make_loop(
            self.engine(),
            policy,
            max_sequences=3,
            step_tokens=16,
            memory=1000 + 10 * 110,
            rebuild=self.engine,
            on_lost=self.lost.set,
            on_finished=lambda record: self.records.update([record.id]),
            engine_label='loader "planted" (made-up 1.0)',
            **options,
        )

    def submit(self) -> dict[str, Ticket[Any]]:
        """Generations that share a beginning, streams, several of one prompt, scores and logits; of two tenants and two priorities."""
        beginning = list(range(1, 20))
        made: list[Ticket[Any]] = []
        for number in range(4):
            request = self.request_of([*beginning, number], 6, ignore_eos=True, priority=4 - number, tenant="ab"[number % 2])
            made.append(self.loop.submit(request))
        made += self.loop.submit_many(self.request_of([*beginning, 50], 5, ignore_eos=True, temperature=1.0, seed=1), 2)
        made.append(self.loop.submit_score(self.request_of([*beginning, 60], 1), [[1, 2, 3], [4, 5]]))
        made.append(self.loop.submit_logits(self.request_of([7, *beginning], 1)))
        made.append(self.loop.submit(self.request_of([*beginning, 70], 4, prompt_lookup=2, ignore_eos=True)))
        return {ticket.id: ticket for ticket in made}

    def run(self) -> dict[str, Any]:
        """Everybody's answer or error, from eight callers at once, half of whom read pieces; the error where the model is gone already."""
        outcomes: dict[str, Any] = {}
        try:
            tickets = self.submit()
        except LLMasOSError as error:  # it failed before all were sent
            return {"submit": error}
        ends: Counter[str] = Counter()
        ended = threading.Semaphore(0)

        def end(name: str) -> None:
            ends.update([name])
            ended.release()

        def wait(ticket: Ticket[Any], number: int) -> None:
            try:
                if number % 2:
                    "".join(ticket)
                outcomes[ticket.id] = ticket.result(SECONDS)
            except BaseException as error:
                outcomes[ticket.id] = error

        for ticket in tickets.values():
            ticket.add_done_callback(lambda ticket=ticket: end(ticket.id))
        callers = [threading.Thread(target=wait, args=(each, n), daemon=True) for n, each in enumerate(tickets.values())]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(SECONDS)
        assert outcomes.keys() == tickets.keys(), f"waits for ever: {tickets.keys() - outcomes.keys()}"
        assert not [each for each in outcomes.values() if isinstance(each, ResultTimeout)]
        wrong = [each for each in outcomes.values() if isinstance(each, BaseException) and not isinstance(each, LLMasOSError)]
        assert not wrong, wrong
        assert all(ended.acquire(timeout=SECONDS) for _ in tickets)
        assert ends == dict.fromkeys(tickets, 1)
        return outcomes

    def check_balance(self) -> None:
        """Nothing is queued, held or open, in core and in the engine, and every request was recorded once."""
        cache = self.loop._scheduler.cache
        with contextlib.suppress(LLMasOSError):
            self.loop.forget_prefixes()
            usage = self.loop.usage()
            assert (usage.running, usage.waiting, usage.kv_used, usage.kv_cached) == (0, 0, 0, 0)
            assert cache.ledger.slots == 0
            failed_to_close = self.fault.method == "close"
            assert failed_to_close or not self.engines[-1].slots
        assert set(self.records.values()) <= {1}, self.records


@pytest.fixture
def trial(hash_engine: Any, request_of: Any, make_loop: Any) -> Iterator[Callable[..., Trial]]:
    from llmasos_hookspecs import Admit

    made: list[Trial] = []

    def make(fault: Fault | None = None, policy_fault: Fault | None = None, **options: Any) -> Trial:
        made.append(Trial(hash_engine, request_of, make_loop, Admit(), fault or Fault(), policy_fault or Fault()))
        made[-1].start(**options)
        return made[-1]

    yield make
    for each in made:
        each.fault.released.set()
        each.policy_fault.released.set()


def calls_to_try(count: int) -> list[int]:
    return list(range(count)) if ALL else sorted({0, 1, count // 2, count - 1} & set(range(count)))


#: The run without a fault, once it was made.
FAULTLESS: list[Trial] = []


@pytest.fixture
def faultless(trial: Callable[..., Trial]) -> Trial:
    """A run without a fault: how often each method is called, and the answers that are right."""
    if not FAULTLESS:
        found = trial()
        found.answers = found.run()
        assert not [each for each in found.answers.values() if isinstance(each, BaseException)]
        found.check_balance()
        FAULTLESS.append(found)
    return FAULTLESS[0]


def methods_and_errors(methods: tuple[str, ...], whole: str) -> list[Any]:
    """Every method with every error, once and for ever; on each change every error in the method ``whole`` once and two for ever, and in
    each of the others one once and another for ever."""

    def usual(method: str, error: str, for_ever: bool) -> bool:
        if method == whole:
            return not for_ever or error in ("RuntimeError", "CapacityExceeded")
        return error == ("SystemExit" if for_ever else "RuntimeError")

    return [
        pytest.param(*each, id="-".join([*each[:2], "for ever" if each[2] else "once"]), marks=[pytest.mark.long] * (not usual(*each)))
        for each in itertools.product(methods, ERRORS, (False, True))
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, whatever was found in a cache."""
    if hasattr(one, "tokens") and hasattr(one, "text"):
        return bool((one.tokens, one.text) == (other.tokens, other.text))
    return bool(one.shape == other.shape and (one == other).all()) if hasattr(one, "shape") else one == pytest.approx(other) or one == other


@pytest.mark.parametrize(("method", "error", "for_ever"), methods_and_errors(ENGINE, "step"))
def test_an_engine_that_fails_keeps_nobody_waiting(
    trial: Callable[..., Trial], faultless: Trial, method: str, error: str, for_ever: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each caller gets an answer, or an error that names the plugin; what was not begun is answered by the next engine."""
    count = faultless.fault.calls[method] or 1
    for at in calls_to_try(count):
        faulty = trial(Fault(method, at, ERRORS[error], for_ever))
        faulty.request_of.numbers = iter(range(1000))  # the same ids, so that answers can be compared
        outcomes = faulty.run()
        for name, outcome in outcomes.items():
            if isinstance(outcome, EngineFailed):
                assert "planted" in str(outcome) or "made-up" in str(outcome), outcome
            elif not isinstance(outcome, LLMasOSError):
                assert same(outcome, faultless.answers[name]), (at, name)
        if not for_ever and "submit" not in outcomes:
            faulty.fault.method = ""  # this run may have taken fewer calls than the one that was counted
            again = faulty.loop.submit(faulty.request_of([5, 6], 3, ignore_eos=True)).result(SECONDS)
            assert len(again.tokens) == 3
        faulty.check_balance()
        faulty.loop.close()
        assert not faulty.loop._thread.is_alive()


@pytest.mark.parametrize(("method", "error", "for_ever"), methods_and_errors(POLICY, "rank"))
def test_a_policy_that_fails_changes_no_answer(
    trial: Callable[..., Trial], faultless: Trial, method: str, error: str, for_ever: bool
) -> None:
    """Core answers in its place, and everybody is served."""
    count = faultless.policy_fault.calls[method]
    assert count, f"{method} is never asked"
    for at in calls_to_try(count):
        faulty = trial(policy_fault=Fault(method, at, ERRORS[error], for_ever))
        faulty.request_of.numbers = iter(range(1000))
        for name, outcome in faulty.run().items():
            assert not isinstance(outcome, BaseException), (at, name, outcome)
            assert same(outcome, faultless.answers[name]), (at, name)
        faulty.check_balance()


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("where", [*ENGINE, *POLICY])
def test_a_plugin_that_does_not_come_back_is_given_up(
    trial: Callable[..., Trial], where: str, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All callers are told which plugin it was, the model is lost, closing returns, and the thread ends if it ever comes back."""
    fault = Fault(where, at, for_ever=True)
    how = {"policy_fault": fault} if where in POLICY else {"fault": fault}
    stuck = trial(**how, close_timeout=0.2)

    def wait_too_long() -> None:
        if fault.reached.wait(SECONDS):
            stuck.loop.look(time.monotonic() + 2 * STEP_SECONDS)

    if where == "shutdown":
        stuck.run()
        stuck.loop.close()
    else:
        threading.Thread(target=wait_too_long, daemon=True).start()
        outcomes = stuck.run()
        if not fault.reached.is_set():  # this call is never made
            return
        assert stuck.lost.wait(SECONDS)
        told = {str(each) for each in outcomes.values() if isinstance(each, EngineFailed)}
        culprit = "scheduling policy" if where in POLICY else f'loader "planted" (made-up 1.0) in {where}'
        assert told
        assert all(culprit in each and "step_timeout" in each for each in told), told
        with pytest.raises(EngineFailed):
            stuck.loop.submit(stuck.request_of([1, 2], 3))
        stuck.loop.close()
    assert set(stuck.records.values()) <= {1}
    fault.released.set()
    stuck.loop._thread.join(SECONDS)
    assert not stuck.loop._thread.is_alive()
    assert stuck.engines[-1].shut_down or where == "shutdown"


def test_a_deadline_is_kept_while_the_engine_does_not_come_back(trial: Callable[..., Trial]) -> None:
    """The caller is told at the deadline, not after the step."""
    clock = [100.0]
    stuck = trial(Fault("step", 0), clock=lambda: clock[0], close_timeout=0.2)
    ticket = stuck.loop.submit(stuck.request_of([1, 2, 3], 3, deadline=105.0, arrival=100.0))
    late = stuck.loop.submit(stuck.request_of([1, 2, 3], 3))
    assert stuck.fault.reached.wait(SECONDS)
    assert not ticket.done
    clock[0] = 106.0
    with pytest.raises(Cancelled, match=r'passed its deadline while the loader "planted" \(made-up 1.0\) in step'):
        ticket.result(SECONDS)
    assert not late.done
    stuck.fault.released.set()
    assert late.result(SECONDS).tokens


def test_while_an_engine_is_loaded_again_deadlines_are_kept_and_the_loader_is_named(
    make_loop: Any, hash_engine: Any, request_of: Any
) -> None:
    """A load may take longer than a step, for it has a bound of its own."""
    clock, loading, loaded = [100.0], threading.Event(), threading.Event()

    def load() -> Any:
        loading.set()
        assert loaded.wait(SECONDS)
        return hash_engine()

    def fail(rows: Any) -> Any:
        return EngineFailed("planted")

    broken = hash_engine(fault=fail)
    label = 'loader "planted" (made-up 1.0)'
    loop = make_loop(broken, rebuild=load, clock=lambda: clock[0], engine_label=label, step_timeout=1.0, max_sequences=1)
    loop.submit(request_of([1, 2, 3], 3, arrival=1.0))
    late = loop.submit(request_of([1, 2], 3, deadline=105.0, arrival=2.0))
    patient = loop.submit(request_of([1, 2], 3, ignore_eos=True, arrival=3.0))
    assert loading.wait(SECONDS)
    clock[0] = 106.0
    with pytest.raises(Cancelled, match=r'the loader "planted" \(made-up 1.0\) in llmasos_load'):
        late.result(SECONDS)
    assert loop.look(time.monotonic() + 1000)  # far longer than a step may take
    loaded.set()
    assert len(patient.result(SECONDS).tokens) == 3


def test_closing_leaves_a_plugin_behind_that_does_not_come_back(trial: Callable[..., Trial], caplog: pytest.LogCaptureFixture) -> None:
    """``close`` returns, and the log says what is left behind."""
    stuck = trial(Fault("step", 0), close_timeout=0.2)
    ticket = stuck.loop.submit(stuck.request_of([1, 2, 3], 3))
    assert stuck.fault.reached.wait(SECONDS)
    stuck.loop.close()
    assert 'the loader "planted" (made-up 1.0) in step did not return' in caplog.text
    with pytest.raises(LLMasOSError, match="closed"):
        ticket.result(SECONDS)


@pytest.mark.parametrize(
    "answer",
    [None, [], "text", [None] * 9, lambda rows: [0.5] * len(rows), lambda rows: [[[0.0] * 97]] * len(rows)],
    ids=["None", "nothing", "text", "too many", "numbers", "lists"],
)
def test_a_step_that_returns_something_else_is_an_error_that_names_the_engine(
    make_loop: Any, hash_engine: Any, request_of: Any, answer: Any
) -> None:
    """What it returned is said, and nobody waits."""
    engine = hash_engine()
    engine.step = answer if callable(answer) else lambda _rows: answer
    loop = make_loop(engine, engine_label="loader X")
    with pytest.raises(EngineFailed, match="loader X returned"):
        loop.submit(request_of([1, 2], 3)).result(SECONDS)


def test_the_process_ends_though_an_engine_does_not(tmp_path: Path) -> None:
    """Nothing was closed, and the engine is in a step that never ends: the program exits with its own status."""
    code = f"""
        import sys, threading
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import conftest
        from llmasos_engine.loop import EngineLoop
        reached = threading.Event()
        def stall(rows):
            reached.set()
            threading.Event().wait()
        engine = conftest.HashEngine(fault=stall)
        loop = EngineLoop(engine, conftest.Fifo(), tokenizer=conftest.ByteTokenizer(), close_timeout=0.2)
        ticket = loop.submit(conftest.Requests()([1, 2], 3))
        reached.wait()
        print("bye")
        raise SystemExit(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (7, "bye\n"), done.stderr

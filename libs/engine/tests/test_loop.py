"""The loop itself: lost engines, memory that is short, other policies, usage, records, and its end."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from llmasos_engine.loop import EngineLoop
from llmasos_hookspecs import (
    CapacityExceeded,
    EngineFailed,
    ModelClosed,
    RequestRecord,
)

SECONDS = 120.0  # after which a test that hangs is given up


class FailsOnce:
    def __init__(self, error: Exception, at: int = 2) -> None:
        self.error, self.at, self.steps = error, at, 0

    def __call__(self, rows: Any) -> Exception | None:
        self.steps += 1
        return self.error if self.steps == self.at else None


def test_a_loop_without_options(hash_engine: Any, tokenizer: Any, fifo: Any, request_of: Any) -> None:
    """Runs eight sequences and 512 tokens at a time, keeps prefixes, and names what it was not told the names of."""
    fault = FailsOnce(SystemExit("planted"), 3)  # type: ignore[arg-type]
    engine = hash_engine(context_length=600, max_sequences=12, fault=fault)
    with EngineLoop(engine, fifo, tokenizer=tokenizer) as loop:
        assert repr(loop) == "<EngineLoop model: Fifo>"
        assert repr(loop._scheduler.policy) == "the scheduling policy Fifo"
        assert (loop._scheduler.max_sequences, loop.context_length, loop.room) == (8, 600, 600)
        loop.submit(request_of([1] * 520, 1)).result(SECONDS)
        assert [len(row.tokens) for rows in engine.steps for row in rows] == [512, 8]
        assert (loop.usage().model, loop.usage().cached_prefixes) == ("model", 1)
        with pytest.raises(EngineFailed) as caught:
            loop.submit(request_of([1], 1)).result(SECONDS)
    assert (
        str(caught.value)
        == "The engine of model failed, and what it was computing is lost: The engine failed in step: SystemExit: planted."
    )


def test_a_loop_goes_by_the_clock_that_it_is_given(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Whatever the time is: in the records too."""
    records: list[RequestRecord] = []
    loop = make_loop(hash_engine(), clock=lambda: 7.0, on_finished=records.append)
    loop.submit(request_of([1], 1)).result(SECONDS)
    assert [(record.queued, record.started, record.first_token, record.finished) for record in records] == [(7.0, 7.0, 7.0, 7.0)]


def test_a_lost_engine_is_rebuilt(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """Who had begun fails with a clear error; who waited is served by the new engine; the old one is shut down."""
    old, new = hash_engine(max_sequences=1, fault=FailsOnce(EngineFailed("a device is gone"))), hash_engine()
    loop = make_loop(old, rebuild=lambda: new)
    first = loop.submit(request_of([1, 2], 10, ignore_eos=True))
    second = loop.submit(request_of([3, 4], 5))
    with pytest.raises(EngineFailed, match=r"engine of tiny failed.*a device is gone"):
        first.result(SECONDS)
    assert list(second.result(SECONDS).tokens) == expected(new, [3, 4], 5)
    assert old.shut_down
    assert loop.usage().finished == 2


def test_a_lost_engine_without_another_ends_the_loop(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Everything fails with the reason, and so does every later call."""
    gate, fault = make_gate(), FailsOnce(EngineFailed("a device is gone"))
    loop = make_loop(hash_engine(max_sequences=1, fault=lambda rows: gate(rows) or fault(rows)))
    tickets = [loop.submit(request_of([i, 2], 10, ignore_eos=True)) for i in range(3)]
    gate.open.set()
    for ticket in tickets:
        with pytest.raises(EngineFailed, match="a device is gone"):
            ticket.result(SECONDS)
    with pytest.raises(EngineFailed, match="a device is gone"):
        loop.submit(request_of([1], 3))


def test_one_bad_request_does_not_take_the_others_with_it(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """An error that one row causes fails that request; the step is done again for the rest."""

    def fault(rows: Any) -> Exception | None:
        return ValueError("bad row") if any(13 in row.tokens for row in rows) else None

    engine = hash_engine(fault=fault)
    loop = make_loop(engine)
    good = [loop.submit(request_of([i, 2], 1)) for i in range(3)]
    bad = loop.submit(request_of([13, 2], 5))
    with pytest.raises(EngineFailed, match="engine failed on request r3 at token 0: bad row"):
        bad.result(SECONDS)
    for i, ticket in enumerate(good):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [i, 2], 1)


def test_an_engine_that_is_short_of_memory_does_less_at_a_time(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """With half the memory that was promised all are still answered, in smaller steps and fewer at once."""
    engine = hash_engine(context_length=64, memory=64)
    loop = make_loop(engine)
    tickets = [loop.submit(request_of([i, *range(20)], 10)) for i in range(6)]
    for i, ticket in enumerate(tickets):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [i, *range(20)], 10)


def test_an_engine_without_any_memory_fails_the_request(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A request that cannot even run alone fails with the reason, and the loop goes on."""
    loop = make_loop(hash_engine(memory=10))
    with pytest.raises(CapacityExceeded, match="no memory for request r0 at token 10, though it runs alone"):
        loop.submit(request_of(list(range(12)), 3)).result(SECONDS)
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens


@pytest.mark.parametrize("refusals", [1, 8, 9])
def test_a_slot_that_an_engine_refuses_is_asked_for_again(refusals: int, make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Eight times where nothing else runs: memory that others held may be free by then. Then the request fails with the reason."""
    engine = hash_engine()
    opened, left = engine.open, iter(range(refusals))

    def open_slot() -> int:
        if next(left, None) is not None:
            raise CapacityExceeded("planted")
        return int(opened())

    engine.open = open_slot
    loop = make_loop(engine, engine_label='loader "planted"')
    ticket = loop.submit(request_of([1, 2], 3, ignore_eos=True))
    if refusals > 8:
        with pytest.raises(CapacityExceeded, match='loader "planted" has no slot for request r0, though nothing else runs'):
            ticket.result(SECONDS)
        ticket = loop.submit(request_of([1, 2], 3, ignore_eos=True))
    assert len(ticket.result(SECONDS).tokens) == 3


def test_policies_are_swapped_under_load(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any, fifo: Any) -> None:
    """Requests that wait and run under one policy are all served under the next."""
    engine = hash_engine(max_sequences=2)
    loop = make_loop(engine, max_sequences=1)
    tickets = [loop.submit(request_of([i, 2], 12)) for i in range(10)]
    for _ in range(3):
        loop.use_policy(type(fifo)(), max_sequences=2, step_tokens=8)
    for i, ticket in enumerate(tickets):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [i, 2], 12)


def test_usage_is_plain_and_true(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Queue lengths, KV and hits add up while one request runs, one waits, and after both are done."""
    gate = make_gate()
    engine = hash_engine(max_sequences=1, fault=gate)
    loop = make_loop(engine)
    tickets = [loop.submit(request_of(list(range(10)), 4, ignore_eos=True)) for _ in range(2)]
    assert gate.reached.wait(SECONDS)
    usage = loop.usage()
    assert (usage.running, usage.waiting, usage.kv_used, usage.kv_capacity) == (1, 1, 10, 64)
    gate.open.set()
    for ticket in tickets:
        ticket.result(SECONDS)
    loop.forget_prefixes()
    after = loop.usage()
    assert (after.running, after.waiting, after.kv_used, after.kv_cached, after.finished) == (0, 0, 0, 0, 2)
    assert after.cache_hits == 8
    assert after.decode_rate > 0


def test_closing_fails_what_is_on_its_way(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Pending requests fail with ModelClosed, later ones are refused, the engine is shut down once, the thread is gone."""
    gate = make_gate()
    engine = hash_engine(fault=gate)
    loop = make_loop(engine)
    tickets = [loop.submit(request_of([i, 2], 30, ignore_eos=True)) for i in range(12)]
    assert gate.reached.wait(SECONDS)
    closer = threading.Thread(target=loop.close)
    closer.start()
    gate.open.set()
    closer.join(SECONDS)
    for ticket in tickets:
        with pytest.raises(ModelClosed, match="tiny is closed"):
            ticket.result(SECONDS)
    loop.close()
    with pytest.raises(ModelClosed):
        loop.submit(request_of([1], 3))
    assert engine.shut_down
    assert not loop._thread.is_alive()


def test_an_observer_that_fails_harms_nobody(make_loop: Any, hash_engine: Any, request_of: Any, caplog: Any) -> None:
    """Its error is logged, and the requests are answered."""

    def fail(record: RequestRecord) -> None:
        raise RuntimeError("no room in the log")

    loop = make_loop(hash_engine(), on_finished=fail)
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens
    assert caplog.messages[0] == "The callback for requests failed on r0."
    assert "no room in the log" in caplog.text


def test_records_tell_a_request_s_story(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Times are in order, counts are right, and the prefix that was found is no cost."""
    records: list[RequestRecord] = []
    loop = make_loop(hash_engine(), on_finished=records.append)
    for _ in range(2):
        loop.submit(request_of(list(range(20)), 5, ignore_eos=True)).result(SECONDS)
    for record in records:
        assert record.started is not None
        assert record.first_token is not None
        assert record.queued <= record.started <= record.first_token <= record.finished
        assert (record.prompt_tokens, record.generated_tokens, record.finish_reason) == (20, 5, "length")
    assert [record.cached_tokens for record in records] == [0, 18]
    assert [record.cost for record in records] == [24, 6]


def _in_child(loop: Any, ticket: Any, request: Any, pipe: Any) -> None:
    answers = []
    for call in (lambda: loop.submit(request), ticket.result, lambda: "".join(ticket), loop.close):
        try:
            answers.append(str(call()))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    pipe.send(answers)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the system cannot fork")
def test_a_forked_child_is_told_to_load_again(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """In the child neither a call nor a ticket hangs; the parent goes on."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    ticket = loop.submit(request_of([1, 2], 5))
    assert gate.reached.wait(SECONDS)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(loop, ticket, request_of([1], 2), there))
    child.start()
    assert here.poll(SECONDS)
    answers = here.recv()
    child.join(SECONDS)
    assert child.exitcode == 0
    assert all("ModelClosed" in answer and "load it again" in answer for answer in answers[:3])
    assert answers[3] == "None"
    gate.open.set()
    assert ticket.result(SECONDS).tokens


def test_exit_with_requests_on_their_way_is_clean() -> None:
    """A process that ends while its model is generating prints no traceback and returns 0."""
    program = """
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
        helpers = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(helpers)
        engine = helpers.HashEngine(context_length=100_000)
        loop = helpers.EngineLoop(engine, helpers.Fifo(), tokenizer=helpers.ByteTokenizer())
        ticket = loop.submit(helpers.Requests()([1, 2], 90_000, ignore_eos=True))
        print(len(next(iter(ticket))))
    """
    helpers = Path(__file__).with_name("conftest.py")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(helpers)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "1", "")


def test_an_idle_loop_gives_free_memory_back_once(
    make_loop: Any, hash_engine: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not between requests that follow one another, and not over and over while nothing comes."""
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr("llmasos_engine.supervised.trim_heap", trimmed.release)
    monkeypatch.setattr("llmasos_engine.supervised.IDLE_SECONDS", 0.2)
    loop = make_loop(hash_engine())
    assert trimmed.acquire(timeout=SECONDS), "What loading left free was kept."
    for _ in range(2):
        loop.submit(request_of([1, 2], 5)).result(SECONDS)
        assert trimmed.acquire(timeout=SECONDS)
        assert not trimmed.acquire(timeout=0.6)

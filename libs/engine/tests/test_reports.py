"""What is told of an engine and its requests, field by field: usage, the records of starts, ends and steps."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import attrs
import pytest

from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.records import finished_record, started_record
from llmasos_engine.runner import Runner
from llmasos_engine.scheduler import Scheduler
from llmasos_engine.step_meter import StepMeter
from llmasos_engine.usage import Usage
from llmasos_hookspecs import EngineFailed, Reject, RequestRecord, RequestStarted, StepRecord

SECONDS = 120.0


class Seconds:
    """A clock that an engine's steps advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_usage_says_what_runs_and_waits(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """One request computes 12 tokens of a prompt of 20, one waits; the loop has been silent since that step began."""
    entered, proceed = threading.Semaphore(0), threading.Semaphore(0)

    def hold(_: Any) -> None:
        entered.release()
        assert proceed.acquire(timeout=SECONDS)

    loop = make_loop(
        hash_engine(fault=hold, context_length=50, kv_bytes_per_token=7), max_sequences=1, step_tokens=12, memory=1000 + 7 * 90
    )
    idle = Usage(
        model="tiny",
        waiting=0,
        running=0,
        waiting_tokens=0,
        running_tokens=0,
        finished=0,
        kv_used=0,
        kv_cached=0,
        kv_capacity=90,
        kv_bytes_per_token=7,
        cached_prefixes=0,
        cache_hits=0,
        prefill_rate=0.0,
        decode_rate=0.0,
        scheduler="Fifo",
        silent=0.0,
    )
    assert attrs.evolve(loop.usage(), silent=0.0) == idle
    tickets = [loop.submit(request_of([1] * 20, 5, ignore_eos=True))]
    assert entered.acquire(timeout=SECONDS)
    tickets.append(loop.submit(request_of([2] * 20, 5, ignore_eos=True)))
    proceed.release()
    assert entered.acquire(timeout=SECONDS)  # in its second step, before which the second request was taken in
    found = loop.usage()
    assert found.prefill_rate > 0
    assert found.silent > 0
    busy = attrs.evolve(idle, waiting=1, running=1, waiting_tokens=25, running_tokens=8 + 5, kv_used=20)
    assert attrs.evolve(found, prefill_rate=0.0, silent=0.0) == busy
    proceed.release(100)
    for ticket in tickets:
        ticket.result(SECONDS)
    loop.submit(request_of([1] * 20, 1)).result(SECONDS)
    after = loop.usage()
    assert (after.finished, after.cached_prefixes, after.kv_cached, after.cache_hits) == (3, 3, 24 + 24 + 20, 18)
    assert loop.describe() == []


def test_what_has_arrived_and_is_not_taken_in_counts_as_waiting(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """While the loop's thread is inside the engine."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    tickets = [loop.submit(request_of([1] * 4, 2))]
    assert gate.reached.wait(SECONDS)
    tickets += [loop.submit(request_of([2] * length, 2)) for length in (3, 6)]
    usage = loop.usage()
    assert (usage.running, usage.waiting, usage.waiting_tokens) == (1, 2, 9)
    gate.open.set()
    for ticket in tickets:
        ticket.result(SECONDS)
    assert (loop.usage().waiting, loop.usage().waiting_tokens) == (0, 0)


def test_a_loop_shows_its_policy_and_that_it_is_closed(make_loop: Any, hash_engine: Any) -> None:
    loop = make_loop(hash_engine())
    assert repr(loop) == "<EngineLoop tiny: Fifo>"
    loop.close()
    assert repr(loop) == "<EngineLoop tiny: closed>"


def test_records_of_a_start_and_an_end(hash_engine: Any, make_runner: Any, fifo: Any, request_of: Any) -> None:
    """Queued at 100, started at 101, its first token at 102: two steps of a second each for the prompt. 12 tokens come from the cache, and
    those that a preemption has computed once more are in the cost."""
    clock = Seconds()
    stepped = make_runner(hash_engine(), fifo, clock=clock, step_tokens=10)
    stepped.add(request_of([1] * 13, 1, tenant="t"))
    stepped.drain()
    request = request_of([1] * 12 + [2] * 18, 6, id="x", tenant="t", priority=3, ignore_eos=True)
    sequence, _ = stepped.add(request)
    waiting = RequestStarted(
        id="x", model="tiny", tenant="t", priority=3, queued=100.0, started=100.0, prompt_tokens=30, cached_tokens=0, max_new_tokens=6
    )
    assert started_record(sequence) == waiting
    for _ in range(3):
        clock.now += 1.0
        stepped.step()
    stepped.scheduler.preempt(sequence)
    error = EngineFailed("It is lost.")
    ended = RequestRecord(
        id="x",
        model="tiny",
        tenant="t",
        queued=100.0,
        started=101.0,
        first_token=102.0,
        finished=110.0,
        prompt_tokens=30,
        cached_tokens=12,
        generated_tokens=2,
        preemptions=1,
        finish_reason="error",
        error="It is lost.",
        cost=19,
    )
    assert started_record(sequence) == attrs.evolve(waiting, started=101.0, cached_tokens=12)
    assert finished_record(sequence, 110.0, "error", error) == ended
    assert finished_record(sequence, 111.0, "stop", None) == attrs.evolve(ended, finished=111.0, finish_reason="stop", error=None)


def test_every_end_is_recorded_with_its_reason(hash_engine: Any, fifo: Any, request_of: Any, tokenizer: Any) -> None:
    """Also one that was refused, one whose id is taken, one past its deadline; and all that were on their way when the loop gave up."""
    from llmasos_engine.generation import GenerationWork
    from llmasos_engine.ticket import Ticket

    records: list[RequestRecord] = []
    clock = Seconds()
    engine = hash_engine()
    fifo.admit = lambda request, stats: Reject("full") if request.tenant == "no" else type(fifo)().admit(request, stats)
    runner = Runner(engine, Scheduler(fifo, KVSlots(engine, KVLedger(100)), clock=clock), clock=clock, on_finished=records.append)

    def add(name: str, **options: Any) -> Ticket[Any]:
        request = request_of([1, 2, 3], 2, id=name, ignore_eos=True, **options)
        ticket: Ticket[Any] = Ticket(name, lambda: None)
        runner.add(request, GenerationWork(request, tokenizer, ticket))
        return ticket

    add("refused", tenant="no")
    add("same")
    add("same")
    add("left")
    late = add("late", deadline=101.0, arrival=99.5)
    runner.cancel("left")
    clock.now = 101.0
    while runner.step():
        pass
    gone = add("gone")
    runner.abandon(EngineFailed("The loop hangs."))
    assert [(record.id, record.finish_reason, record.error) for record in records] == [
        ("refused", "rejected", "Request refused was refused by the scheduler: full"),
        ("same", "error", "A request with the id same is on its way already; give each request an id of its own."),
        ("left", "cancelled", None),
        ("late", "cancelled", "Request late passed its deadline, 1.5 seconds after it came, with 0 of 2 tokens generated."),
        ("same", "length", None),
        ("gone", "error", "The loop hangs."),
    ]
    assert runner.finished == 3, "Those that were queued and have ended."
    assert (late.done, gone.done) == (True, True)


def test_a_step_s_record_adds_up_what_came_since_the_last(hash_engine: Any, make_runner: Any, fifo: Any, request_of: Any) -> None:
    """Steps within a quarter of a second are told together; when the work ends, what is left of them, then once that nothing runs."""
    records: list[StepRecord] = []
    now = itertools.count(1)
    stepped = make_runner(hash_engine(), fifo, capacity=100, step_tokens=10)
    scheduler = stepped.scheduler
    meter = StepMeter("tiny", records.append)
    sequence, _ = stepped.add(request_of([1] * 12, 5, ignore_eos=True))
    stepped.add(request_of([2] * 3, 5, ignore_eos=True))
    stepped.step()
    meter.add(scheduler, 10, 0, 0.5, next(now))
    meter.add(scheduler, 2, 0, 0.125, 1.2)
    meter.add(scheduler, 3, 1, 0.25, 1.499)
    assert len(records) == 1
    scheduler.preempt(sequence)
    meter.add(scheduler, 0, 2, 0.5, 1.5)
    first = StepRecord(
        model="tiny",
        time=1,
        steps=1,
        seconds=0.5,
        prefill_tokens=10,
        decode_tokens=0,
        preemptions=0,
        running=1,
        waiting=1,
        kv_used=10,
        kv_cached=0,
        kv_capacity=100,
    )
    second = attrs.evolve(
        first,
        time=1.5,
        steps=3,
        seconds=0.875,
        prefill_tokens=5,
        decode_tokens=3,
        preemptions=1,
        running=0,
        waiting=2,
        kv_used=0,
        kv_cached=10,
    )
    assert records == [first, second]
    stepped.drain()
    records.clear()
    meter.flush(scheduler, 2.0)
    meter.flush(scheduler, 3.0)
    assert [(record.steps, record.running, record.waiting, record.time) for record in records] == [(0, 0, 0, 2.0)]


@pytest.mark.parametrize("reason", ["error", "cancelled"])
def test_prefix_cache_keeps_a_cancelled_request_and_not_one_that_failed(
    reason: str, hash_engine: Any, make_runner: Any, fifo: Any, request_of: Any
) -> None:
    """What was computed of a cancelled request serves the next one with this prompt; after an error it may be wrong."""
    stepped = make_runner(hash_engine(), fifo)
    sequence, _ = stepped.add(request_of([1] * 12, 9, ignore_eos=True))
    stepped.step()
    if reason == "error":
        stepped.runner.fail_all(EngineFailed("planted"))
    else:
        stepped.runner.cancel(sequence.request.id)
    assert len(stepped.cache.prefixes) == (0 if reason == "error" else 1)
    assert stepped.runner.idle

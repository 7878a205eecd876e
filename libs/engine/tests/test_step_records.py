"""What an engine's loop tells of its steps and of requests that start: enough for metrics, and nothing where nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmasos_engine import step_meter
from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.runner import Runner
from llmasos_engine.scheduler import Scheduler
from llmasos_engine.step_meter import StepMeter
from llmasos_hookspecs import RequestRecord, RequestStarted, StepRecord

PROMPTS = [[1, 2, 3, 4], [5, 6, 7], [1, 2, 3, 4, 8, 9]]


def run(make_loop: Callable[..., Any], hash_engine: Any, request_of: Any, **options: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The records of some requests: of their ends, of their starts, and of the steps."""
    ended: list[RequestRecord] = []
    started: list[RequestStarted] = []
    steps: list[StepRecord] = []
    loop = make_loop(
        hash_engine(), on_finished=ended.append, on_started=started.append, on_step=steps.append, keep_prefixes=False, **options
    )
    tickets = [loop.submit(request_of(prompt, 10, ignore_eos=True, tenant="t")) for prompt in PROMPTS]
    for ticket in tickets:
        ticket.result(120)
    loop.close()
    return ended, started, steps


@pytest.mark.parametrize("every", [0.0, 1000.0])
def test_the_sums_over_all_records_lose_nothing(
    make_loop: Callable[..., Any], hash_engine: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch, every: float
) -> None:
    """However seldom records come, their counts add up to all that was computed."""
    monkeypatch.setattr(step_meter, "SAMPLE_SECONDS", every)
    ended, _, steps = run(make_loop, hash_engine, request_of)
    assert sum(step.prefill_tokens for step in steps) == sum(map(len, PROMPTS))
    assert sum(step.prefill_tokens + step.decode_tokens for step in steps) == sum(record.cost for record in ended)
    assert sum(step.seconds for step in steps) > 0
    assert {step.model for step in steps} == {"tiny"}
    assert (steps[-1].running, steps[-1].waiting, steps[-1].kv_used) == (0, 0, 0)
    assert all(step.steps <= 1 for step in steps) if every == 0.0 else len(steps) <= 1 + len(PROMPTS)


def test_a_request_starts_once_and_before_it_ends(make_loop: Callable[..., Any], hash_engine: Any, request_of: Any) -> None:
    """Also where it waits for a slot, with the times and lengths of the request."""
    ended, started, _ = run(make_loop, hash_engine, request_of, max_sequences=1)
    assert [record.id for record in started] == [record.id for record in ended]
    for start, end, prompt in zip(started, ended, PROMPTS, strict=True):
        assert (start.prompt_tokens, start.max_new_tokens, start.tenant) == (len(prompt), 10, "t")
        assert start.queued == end.queued
        assert start.started == end.started


def test_preemptions_and_queues_are_in_the_records(hash_engine: Any, fifo: Any, request_of: Any, tokenizer: Any) -> None:
    """Of one runner by hand: waiting sequences, used KV memory, and preemptions since the record before."""
    records: list[StepRecord] = []
    tick = [0.0]
    scheduler = Scheduler(fifo, KVSlots(hash_engine(), KVLedger(100)), clock=lambda: tick[0], max_sequences=1, step_tokens=8)
    meter = StepMeter("tiny", records.append)
    from llmasos_engine.generation import GenerationWork
    from llmasos_engine.ticket import Ticket

    runner = Runner(scheduler.cache._engine, scheduler, clock=lambda: tick[0], meter=meter)
    for number in range(3):
        request = request_of([1, 2, 3, number], 4, ignore_eos=True)
        runner.add(request, GenerationWork(request, tokenizer, Ticket(request.id, lambda: None)))
    tick[0] += 1.0
    runner.step()
    assert (records[-1].running, records[-1].waiting, records[-1].kv_capacity) == (1, 2, 100)
    assert records[-1].kv_used >= 4
    scheduler.preempt(scheduler.running[0])
    tick[0] += 1.0
    runner.step()
    assert records[-1].preemptions == 1
    tick[0] += 1.0
    runner.step()
    assert records[-1].preemptions == 0

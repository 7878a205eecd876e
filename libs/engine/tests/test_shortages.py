"""Where an engine has no room or gives no numbers: how often it is asked again, and what the caller is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from llmasos_engine.runner import Runner
from llmasos_engine.scoring import LogitsWork
from llmasos_engine.step_meter import StepMeter
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import CapacityExceeded, EngineFailed, LLMasOSError, RequestRecord, ResourceError, StepRecord


def error_of(ticket: Ticket[Any]) -> LLMasOSError:
    with pytest.raises(LLMasOSError) as caught:
        ticket.result(0.0)
    return caught.value


def refusing(answers: Iterator[bool], call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which finds no memory as long as the next of ``answers`` is false."""

    def asked(*arguments: Any) -> Any:
        if not next(answers, True):
            raise CapacityExceeded("planted")
        return call(*arguments)

    return asked


@pytest.mark.parametrize("short_of", ["open", "step"])
def test_an_engine_is_asked_eight_times_more_and_each_time_anew(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, short_of: str
) -> None:
    """For a slot, or for a step of one token, where nothing else runs. What was refused before, or who gave up, does not count."""
    stepped = make_runner(hash_engine(), fifo, keep_prefixes=False)
    answers = [*[False] * 8, True, *[False] * 8, True, *[False] * 9, *[False] * 8, True]
    setattr(stepped.engine, short_of, refusing(iter(answers), getattr(stepped.engine, short_of)))
    tickets = []
    for _ in range(4):
        tickets.append(stepped.add(request_of([5], 1, id="r"))[1])
        stepped.drain()
    told = {
        "open": "The engine has no slot for request r, though nothing else runs; give it more memory.",
        "step": "The engine has no memory for request r at token 0, though it runs alone; give it a smaller context or more memory.",
    }
    error = error_of(tickets.pop(2))
    assert isinstance(error, CapacityExceeded)
    assert str(error) == told[short_of]
    assert [len(ticket.result(0.0).tokens) for ticket in tickets] == [1, 1, 1]


def test_what_is_preempted_for_want_of_memory_does_not_take_it_again_at_once(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any
) -> None:
    """Of two that decode, the engine has no room for either's next token: the first goes on alone, and the second after that."""
    stepped = make_runner(hash_engine(memory=8), fifo, keep_prefixes=False)
    first, second = (stepped.add(request_of([n] * 4, 9, ignore_eos=True))[0] for n in range(2))
    assert stepped.step() == [4, 4]
    assert stepped.step() == []
    assert (first.state, second.state) == ("running", "preempted")
    assert stepped.step() == [1]
    assert second.state == "preempted"


@pytest.mark.parametrize(("prompt", "at"), [(10, 10), (12, 12), (8, 11)])
def test_what_the_cache_cannot_hold_is_told_with_its_size(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, prompt: int, at: int
) -> None:
    """A prompt that leaves no room for an answer, one that is too long itself, and an answer that grows too long: at once, since no room
    will come of waiting."""
    stepped = make_runner(hash_engine(), fifo, capacity=10, keep_prefixes=False)
    _, ticket = stepped.add(request_of([1] * prompt, 5, id="r", ignore_eos=True))
    for _ in range(at - prompt):
        stepped.step()
    assert not ticket.done
    stepped.step()
    error = error_of(ticket)
    assert isinstance(error, ResourceError)
    assert str(error) == (
        f"Request r cannot go on at {at} tokens: the KV cache holds 10 tokens, and the engine has no slot or room left; "
        "raise resources.memory."
    )
    assert stepped.runner.idle


def test_a_prompt_that_just_fits_waits_for_a_slot(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Nine tokens and one of the answer fill a cache of ten."""
    stepped = make_runner(hash_engine(), fifo, capacity=10, keep_prefixes=False)
    stepped.engine.open = refusing(iter([False]), stepped.engine.open)
    _, ticket = stepped.add(request_of([1] * 9, 1))
    stepped.drain()
    assert len(ticket.result(0.0).tokens) == 1


def test_numbers_that_are_none_fail_their_request_and_are_recorded(
    hash_engine: Any, make_runner: Any, fifo: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a generation and of logits, each with what it asked for."""
    stepped = make_runner(hash_engine(), fifo)
    records: list[RequestRecord] = []
    runner = Runner(stepped.engine, stepped.scheduler, clock=lambda: 1.0, on_finished=records.append)
    stepped.runner = runner
    monkeypatch.setattr(stepped.engine, "logits", lambda _: np.full(97, np.nan, np.float32))
    _, generation = stepped.add(request_of([1, 2, 3], 5, id="a"))
    logits: Ticket[Any] = Ticket("b", lambda: None)
    runner.add(request_of([1, 2], 1, id="b"), LogitsWork(logits))
    while runner.step():
        pass
    told = [
        "The engine failed on request a at token 3: its logits hold NaN or infinity, or nothing that may be chosen.",
        "The engine failed on request b at token 2: its logits hold NaN or infinity.",
    ]
    for ticket, sentence in zip((generation, logits), told, strict=True):
        error = error_of(ticket)
        assert isinstance(error, EngineFailed)
        assert (str(error), isinstance(error.__cause__, ValueError)) == (sentence, True)
    assert {(record.id, record.finish_reason, record.error) for record in records} == {("a", "error", told[0]), ("b", "error", told[1])}


def test_a_step_says_whether_there_is_more_to_do(hash_engine: Any, make_runner: Any, fifo: Any, request_of: Any) -> None:
    """Also the one that ends the last request has done something."""
    stepped = make_runner(hash_engine(), fifo)
    assert stepped.runner.step() is False
    stepped.add(request_of([1, 2], 1))
    assert [stepped.runner.step(), stepped.runner.step()] == [True, False]
    assert stepped.runner.moves == 1


def test_steps_are_metered_by_the_clock(hash_engine: Any, make_runner: Any, fifo: Any, request_of: Any) -> None:
    """Each with its own seconds and tokens, when it has ended; then once that nothing runs."""
    now = [10.0]

    def advance(rows: Any) -> None:
        now[0] += 0.5

    records: list[StepRecord] = []
    stepped = make_runner(hash_engine(fault=advance), fifo, clock=lambda: now[0])
    meter = StepMeter("tiny", records.append)
    meter.flush(stepped.scheduler, 0.25)
    assert records == []
    stepped.runner = Runner(stepped.engine, stepped.scheduler, clock=lambda: now[0], meter=meter)
    stepped.add(request_of([1, 2, 3], 2, ignore_eos=True))
    stepped.drain()
    assert [(each.time, each.seconds, each.steps, each.prefill_tokens, each.decode_tokens, each.running) for each in records] == [
        (10.5, 0.5, 1, 3, 0, 1),
        (11.0, 0.5, 1, 0, 1, 1),
        (11.0, 0.0, 0, 0, 0, 0),
    ]


def test_the_first_steps_are_told_of_after_half_a_second(hash_engine: Any, make_runner: Any, fifo: Any) -> None:
    records: list[StepRecord] = []
    stepped = make_runner(hash_engine(), fifo)
    meter = StepMeter("tiny", records.append)
    meter.add(stepped.scheduler, 1, 0, 0.1, 0.4)
    assert records == []
    meter.add(stepped.scheduler, 2, 0, 0.1, 0.5)
    assert [(each.steps, each.prefill_tokens) for each in records] == [(2, 3)]

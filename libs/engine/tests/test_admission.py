"""Requests that a full queue would refuse anyway are refused before their prompts are encoded: by what waits and what has just arrived."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from llmasos_engine.admission import refusal
from llmasos_hookspecs import QueueBounds, Rejected, Request, SamplingParams, Stats

SECONDS = 120.0


class Asked:
    """The least length of a request; knows how often it was asked for."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.count = tokens, 0

    def __call__(self) -> int:
        self.count += 1
        return self.tokens


def stats(**more: Any) -> Stats:
    fields = {"waiting": 3, "waiting_tokens": 60, "waiting_prompt_tokens": 40, "prefill_rate": 20.0, "decode_rate": 10.0}
    return Stats(now=5.0, **{**fields, **more})


def test_the_number_of_those_who_wait_needs_no_length() -> None:
    asked = Asked(9)
    assert refusal(QueueBounds(max_queue=4), stats(), asked) is None
    error = refusal(QueueBounds(max_queue=3), stats(), asked)
    assert isinstance(error, Rejected)
    assert str(error) == "The request was refused by the scheduler: 3 requests wait, and max_queue is 3"
    assert error.retry_after == pytest.approx(20 * (2 / 3) / 20 + 20 * (1 / 3) / 10), "A third of what waits, at its rates."
    assert asked.count == 0


def test_the_tokens_that_wait_are_bounded_with_those_that_come() -> None:
    """The bound itself is allowed; a request that must have at least one token has one; an empty queue takes any."""
    asked = Asked(9)
    assert refusal(QueueBounds(max_queue_tokens=69), stats(), asked) is None
    assert str(refusal(QueueBounds(max_queue_tokens=68), stats(), asked)) == (
        "The request was refused by the scheduler: 60 tokens wait, 9 more would come, and max_queue_tokens is 68"
    )
    assert asked.count == 2
    assert str(refusal(QueueBounds(max_queue_tokens=60), stats(), Asked(0))).endswith("1 more would come, and max_queue_tokens is 60")
    assert refusal(QueueBounds(max_queue_tokens=1), stats(waiting=0, waiting_tokens=0, waiting_prompt_tokens=0), asked) is None
    assert asked.count == 2


def test_bounds_are_asked_about_the_least_request_that_there_can_be() -> None:
    """Of one new token and a prompt of the rest, which comes now and is nobody's in particular."""
    told: list[tuple[Any, Any]] = []

    class Told(QueueBounds):
        def check(self, request: Any, stats: Any) -> Any:
            told.append((request, stats))
            return super().check(request, stats)

    waiting = stats()
    assert refusal(Told(max_queue_tokens=1000), waiting, Asked(9)) is None
    assert refusal(Told(max_queue=9), waiting, Asked(9)) is None
    least = Request(id="", model="", tokens=range(8), max_new_tokens=1, arrival=5.0, sampling=SamplingParams())
    assert told == [(least, waiting), (attrs.evolve(least, tokens=range(0)), waiting)]


def test_the_wait_is_bounded() -> None:
    """40 prompt tokens at 20 a second and 20 others at 10 are four seconds."""
    assert refusal(QueueBounds(max_wait=4.0), stats(), Asked(1)) is None
    error = refusal(QueueBounds(max_wait=3.5), stats(), Asked(1))
    assert isinstance(error, Rejected)
    assert error.retry_after == pytest.approx(0.5)
    assert str(error) == "The request was refused by the scheduler: the wait would be about 4 seconds, and max_wait is 3.5"


def test_what_waits_and_what_has_arrived_count_together(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Of a loop whose thread is inside the engine: one runs, one waits, and two have arrived."""
    gate, now = make_gate(after=1), [50.0]
    loop = make_loop(hash_engine(fault=gate), max_sequences=1, clock=lambda: now[0])
    loop.check_queue(Asked(10**9))
    tickets = [loop.submit(request_of([1] * 4, 3, ignore_eos=True)), loop.submit(request_of([2] * 6, 5, ignore_eos=True))]
    assert gate.reached.wait(SECONDS)
    tickets += [loop.submit(request_of([3] * 10, 7, ignore_eos=True)), loop.submit(request_of([4] * 20, 1, ignore_eos=True))]

    def refused(**bounds: Any) -> str:
        loop._queue.bounds = QueueBounds(**bounds)
        try:
            loop.check_queue(Asked(2))
        except Rejected as error:
            return str(error).removeprefix("The request was refused by the scheduler: ")
        return ""

    assert refused(max_queue=4) == ""
    assert refused(max_queue=3) == "3 requests wait, and max_queue is 3"
    assert refused(max_queue_tokens=51) == ""
    assert refused(max_queue_tokens=50) == "49 tokens wait, 2 more would come, and max_queue_tokens is 50"
    loop._scheduler.rates.add(90, 0, 1.0)
    loop._scheduler.rates.add(0, 26, 2.0)
    prefill, decode = loop._scheduler.rates.prefill, loop._scheduler.rates.decode
    wait = 36 / prefill + 13 / decode
    assert refused(max_wait=wait * 1.001) == ""
    assert refused(max_wait=wait * 0.999) == f"the wait would be about {wait:.3g} seconds, and max_wait is {wait * 0.999:g}"
    gate.open.set()
    for ticket in tickets:
        ticket.result(SECONDS)


def test_another_policy_brings_its_own_bounds(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any, fifo: Any) -> None:
    bounds = QueueBounds(max_queue=1)
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate), bounds=bounds, max_sequences=1)
    assert loop._queue.bounds is bounds
    tickets = [loop.submit(request_of([number] * 4, 1)) for number in range(3)]
    assert gate.reached.wait(SECONDS)
    with pytest.raises(Rejected, match="max_queue is 1"):
        loop.check_queue(Asked(1))
    gate.open.set()
    for ticket in tickets:
        ticket.result(SECONDS)
    loop.check_queue(Asked(1))
    loop.use_policy(type(fifo)(), bounds=QueueBounds(max_queue=5))
    assert loop._queue.bounds == QueueBounds(max_queue=5)
    loop.use_policy(type(fifo)())
    assert loop._queue.bounds is None

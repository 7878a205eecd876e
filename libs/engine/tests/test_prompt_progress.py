"""How much of a prompt is computed: what a ticket tells while its request waits and while its prompt is read."""

from __future__ import annotations

import itertools
from typing import Any

from llmasos_engine.ticket import Ticket

SECONDS = 120.0  # after which a test that hangs is given up
PROMPT = list(range(40))


def told_of(ticket: Ticket[Any]) -> list[tuple[int, int, int]]:
    """A list that grows with each progress: total, cached, processed."""
    found: list[tuple[int, int, int]] = []
    ticket.listen_to_prefill(lambda progress: found.append((progress.total, progress.cached, progress.processed)))
    return found


def test_each_chunk_of_a_prompt_is_told_and_its_end_once(make_runner: Any, hash_engine: Any, fifo: Any, request_of: Any) -> None:
    """From the slot on, which is given before the first chunk is computed; tokens of the answer tell no more."""
    runner = make_runner(hash_engine(), fifo, step_tokens=10)
    _, ticket = runner.add(request_of(PROMPT, 8, ignore_eos=True))
    assert ticket.progress is None
    told = told_of(ticket)
    runner.drain()
    assert told == [(40, 0, 0), (40, 0, 10), (40, 0, 20), (40, 0, 30), (40, 0, 40)]
    assert ticket.progress.processed == 40


def test_tokens_of_the_prefix_cache_count_as_computed(make_runner: Any, hash_engine: Any, fifo: Any, request_of: Any) -> None:
    runner = make_runner(hash_engine(), fifo, step_tokens=10)
    runner.add(request_of(PROMPT[:25], 1))
    runner.drain()
    _, ticket = runner.add(request_of(PROMPT, 1))
    told = told_of(ticket)
    runner.drain()
    assert told == [(40, 25, 25), (40, 25, 35), (40, 25, 40)]
    assert ticket.result(SECONDS).cached_tokens == 25


def test_a_request_in_the_queue_has_no_progress(make_runner: Any, hash_engine: Any, fifo: Any, request_of: Any) -> None:
    """It begins with its slot, which the request before it frees."""
    runner = make_runner(hash_engine(max_sequences=1), fifo, max_sequences=1, step_tokens=10)
    runner.add(request_of(PROMPT, 3, ignore_eos=True))
    _, ticket = runner.add(request_of([50, *PROMPT], 1))
    for _ in range(4):
        runner.step()
        assert ticket.progress is None
    runner.drain()
    assert ticket.progress.processed == ticket.progress.total == 41


def test_a_preempted_prompt_begins_again(make_runner: Any, hash_engine: Any, fifo: Any, request_of: Any) -> None:
    """What was computed of it is lost, unless it stays in the prefix cache, so its share falls before it rises."""
    runner = make_runner(hash_engine(), fifo, step_tokens=10, keep_prefixes=False)
    sequence, ticket = runner.add(request_of(PROMPT, 1))
    told = told_of(ticket)
    runner.step()
    runner.step()
    runner.scheduler.preempt(sequence)
    runner.drain()
    assert [processed for _, _, processed in told] == [0, 10, 20, 0, 10, 20, 30, 40]


def test_seconds_count_from_the_slot(make_runner: Any, hash_engine: Any, fifo: Any, request_of: Any) -> None:
    """Not from the queue."""
    now = itertools.count()
    runner = make_runner(hash_engine(), fifo, step_tokens=20, clock=lambda: float(next(now)))
    _, ticket = runner.add(request_of(PROMPT, 1))
    seconds: list[float] = []
    ticket.listen_to_prefill(lambda progress: seconds.append(progress.seconds))
    runner.drain()
    assert seconds[0] == 1.0  # of the clock's next tick
    assert seconds == sorted(set(seconds))


def test_the_beams_of_a_search_and_continuations_share_the_progress(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """It is of the prompt that is computed for all of them."""
    loop = make_loop(hash_engine(), step_tokens=10)
    search = loop.submit(request_of(PROMPT, 3, num_beams=3))
    search.result(SECONDS)
    assert (search.progress.total, search.progress.processed) == (40, 40)
    first, *others = loop.submit_many(request_of([60, *PROMPT], 3, ignore_eos=True), 3)
    for ticket in (first, *others):
        ticket.result(SECONDS)
        assert (ticket.progress.total, ticket.progress.processed) == (41, 41)
    assert first.progress.cached == 0


def test_a_listener_that_comes_late_hears_what_is_computed_already(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    ticket = make_loop(hash_engine()).submit(request_of(PROMPT, 1))
    ticket.result(SECONDS)
    assert told_of(ticket) == [(40, 0, 40)]

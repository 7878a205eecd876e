"""Queues of replicas that are full: their parent refuses what each of them would."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st
from libs.replicas.tests.seats import ScriptedPlacement, ScriptedSeat, specs

from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import QueueBounds, Rejected, Request
from llmasos_options.component import ComponentConfig
from llmasos_replicas.queues import waiting_at_least
from llmasos_replicas.replica import Job
from llmasos_replicas.replica_set import ReplicaSet

_numbers = itertools.count()


def request(prompt: int = 1) -> Request:
    return Request(id=f"r{next(_numbers)}", model="m", tokens=(1,) * prompt, max_new_tokens=1, arrival=0.0)


@pytest.fixture
def placement() -> ScriptedPlacement:
    """Its seats answer nothing by themselves."""
    return ScriptedPlacement(lambda _, on_message, on_end: ScriptedSeat(on_message, on_end))


@pytest.fixture
def replicas(placement: ScriptedPlacement) -> Iterator[ReplicaSet]:
    made = ReplicaSet("m", specs(2), placement, bounds=QueueBounds(max_sequences=2, max_queue=1))
    yield made
    made.close()


def never() -> int:
    raise AssertionError("The prompt's length is not asked for where no bound depends on it.")


def test_a_request_is_refused_where_the_queue_of_each_replica_is_full(replicas: ReplicaSet, placement: ScriptedPlacement) -> None:
    tickets = []
    for _ in range(6):  # each replica computes two, and one waits
        replicas.check_queue(never)
        tickets.append(replicas.submit(request()))
    with pytest.raises(Rejected, match="1 requests wait, and max_queue is 1") as error:
        replicas.check_queue(never)
    assert error.value.retry_after
    number = next(number for number, replica in replicas._replicas.items() if tickets[0].id in replica.jobs)
    placement.seats[number].answer(tickets[0].id)
    tickets[0].result(60)
    replicas.check_queue(never)


def test_another_scheduler_has_other_queues(replicas: ReplicaSet) -> None:
    for _ in range(6):
        replicas.submit(request())
    replicas.use_scheduler(ComponentConfig("fifo"), QueueBounds(max_sequences=2, max_queue=2))
    replicas.check_queue(never)
    replicas.use_scheduler(ComponentConfig("other"))  # its queue has no bounds that core knows
    replicas.check_queue(never)


def test_a_queue_is_full_of_tokens(placement: ScriptedPlacement) -> None:
    replicas = ReplicaSet("m", specs(1), placement, bounds=QueueBounds(max_sequences=1, max_queue_tokens=20))
    try:
        large, small = request(15), request(7)
        replicas.submit(large)
        replicas.submit(small)
        replicas.check_queue(lambda: 12)  # whichever of them waits, it has 8 tokens at least
        with pytest.raises(Rejected, match="8 tokens wait, 13 more would come, and max_queue_tokens is 20"):
            replicas.check_queue(lambda: 13)
        placement.seats[0].tell("started", [small.id])
        with pytest.raises(Rejected, match="16 tokens wait"):
            replicas.check_queue(lambda: 12)
    finally:
        replicas.close()


@given(st.data(), st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=8), st.integers(1, 8))
def test_no_more_is_thought_to_wait_than_does(data: Any, found: list[tuple[int, bool]], slots: int) -> None:
    """Whichever requests run that have not said so yet."""
    begun = [place for place, (_, runs) in enumerate(found) if runs][:slots]
    fresh = [place for place in range(len(found)) if place not in begun]
    running = begun + data.draw(st.permutations(fresh))[: slots - len(begun)]
    tickets: dict[str, Ticket[Any]] = {"only": Ticket("only", lambda: None)}
    jobs = [Job("generate", request(), None, tokens, tickets, begun=place in begun) for place, (tokens, _) in enumerate(found)]
    stats = waiting_at_least(jobs, slots, QueueBounds(max_queue_tokens=1), 0.0)
    waits = [tokens for place, (tokens, _) in enumerate(found) if place not in running]
    assert stats.waiting == len(waits)
    assert stats.waiting_tokens <= sum(waits)
    if len(begun) == min(slots, len(found)):
        assert stats.waiting_tokens == sum(waits)

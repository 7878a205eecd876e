"""Urgency, and what waiting does to it."""

from __future__ import annotations

from llmasos_hookspecs import Request
from llmasos_hookspecs.testing import SimulatedSequence
from llmasos_sched_priority import Options, PriorityAgeing


def sequence(name: str, priority: int = 0, arrival: float = 0.0) -> SimulatedSequence:
    return SimulatedSequence(request=Request(id=name, model="m", tokens=(1,), max_new_tokens=3, arrival=arrival, priority=priority))


def test_the_more_urgent_goes_first_until_the_other_has_waited() -> None:
    """A level is worth thirty seconds: what came 29 later outranks, what came 31 later does not."""
    policy = PriorityAgeing(Options(ageing=30.0))
    calm = sequence("calm")
    for arrival, overtakes in ((29.0, True), (31.0, False)):
        urgent = sequence("urgent", 1, arrival)
        assert (policy.rank(urgent, 40.0) < policy.rank(calm, 40.0)) == overtakes


def test_time_does_not_change_an_order() -> None:
    """All age alike, so a rank taken once is good for ever."""
    policy = PriorityAgeing(Options())
    assert policy.rank(sequence("a", 1, 5.0), 10.0) == policy.rank(sequence("a", 1, 5.0), 1000.0)


def test_a_slot_is_taken_from_the_least_urgent_by_the_more_urgent_only() -> None:
    """Requests of equal urgency wait; so does one whose rival has aged past it; with ``preempt = false`` there is no victim."""
    policy = PriorityAgeing(Options(ageing=30.0))
    running = [sequence("old", 0, 0.0), sequence("new", 0, 50.0), sequence("high", 2, 50.0)]
    assert policy.victim(running, sequence("needy", 1, 60.0), 60.0) == "new"
    assert policy.victim(running, sequence("needy", 0, 60.0), 60.0) is None
    assert policy.victim(running[:1], sequence("needy", 1, 60.0), 60.0) is None
    assert PriorityAgeing(Options(preempt=False)).victim(running, sequence("needy", 1, 60.0), 60.0) is None

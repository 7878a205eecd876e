"""First come, first served."""

from __future__ import annotations

from llmasos_hookspecs import Reject, Request, Stats
from llmasos_hookspecs.testing import SimulatedSequence
from llmasos_sched_fifo import Fifo, Options


def sequence(name: str, arrival: float) -> SimulatedSequence:
    return SimulatedSequence(request=Request(id=name, model="m", tokens=(1,), max_new_tokens=3, arrival=arrival, priority=int(arrival)))


def test_order_is_that_of_arrival_without_victims() -> None:
    """Neither priority nor anything else counts."""
    policy = Fifo(Options())
    sequences = [sequence("c", 3.0), sequence("a", 1.0), sequence("b", 2.0)]
    assert [each.request.id for each in sorted(sequences, key=lambda each: policy.rank(each, 9.0))] == ["a", "b", "c"]
    assert policy.victim(sequences, sequence("needy", 0.0), 9.0) is None


def test_a_full_queue_is_refused() -> None:
    """With two waiting and room for two the third hears why."""
    answer = Fifo(Options(max_queue=2)).admit(sequence("x", 1.0).request, Stats(now=0.0, waiting=2, waiting_tokens=8, decode_rate=4.0))
    assert isinstance(answer, Reject)
    assert "2 requests wait, and max_queue is 2" in answer.reason
    assert answer.retry_after == 1.0

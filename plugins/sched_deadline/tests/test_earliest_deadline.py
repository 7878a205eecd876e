"""What is due first, and what cannot be done in time."""

from __future__ import annotations

from llmasos_hookspecs import Admit, Charge, Reject, Request, Stats
from llmasos_hookspecs.testing import SimulatedSequence
from llmasos_sched_deadline import EarliestDeadline, Options

#: 100 tokens of a prompt a second, 10 new ones.
STATS = Stats(now=0.0, prefill_rate=100.0, decode_rate=10.0)


def request(name: str, deadline: float | None = None, *, prompt: int = 100, new: int = 10, arrival: float = 0.0) -> Request:
    return Request(id=name, model="m", tokens=range(prompt), max_new_tokens=new, arrival=arrival, deadline=deadline)


def finish(policy: EarliestDeadline, name: str, decode: int = 0) -> None:
    policy.on_commit([Charge(id=name, tenant="default", weight=1.0, decode_tokens=decode, finished=True)])


def test_order_is_by_deadline_and_the_patient_have_one_too() -> None:
    """A request without a deadline counts as due after ``patience`` seconds."""
    policy = EarliestDeadline(Options(patience=60.0))
    ranks = {
        each.id: policy.rank(SimulatedSequence(request=each), 0.0)
        for each in (request("late", 90.0), request("none"), request("soon", 5.0))
    }
    assert sorted(ranks, key=ranks.__getitem__) == ["soon", "none", "late"]


def test_what_takes_longer_than_its_deadline_is_refused_with_both_figures() -> None:
    """100 prompt tokens and 10 new ones take 2 seconds here: 1.9 are not enough, 2.1 are."""
    policy = EarliestDeadline(Options())
    answer = policy.admit(request("a", 1.9), STATS)
    assert isinstance(answer, Reject)
    assert "deadline is in 1.9 seconds, and it would take about 2" in answer.reason
    assert answer.retry_after is None
    assert isinstance(policy.admit(request("b", 2.1), STATS), Admit)


def test_only_what_is_due_earlier_stands_in_the_way() -> None:
    """Work that is due later can wait; work due earlier, until it is finished, cannot."""
    policy = EarliestDeadline(Options())
    for number in range(5):
        assert isinstance(policy.admit(request(f"later{number}", 50.0), STATS), Admit)
        assert isinstance(policy.admit(request(f"sooner{number}", 15.0), STATS), Admit)
    assert isinstance(policy.admit(request("tight", 11.5), STATS), Admit)
    assert isinstance(policy.admit(request("too tight", 16.5, prompt=500), STATS), Reject)
    for number in range(5):
        finish(policy, f"sooner{number}", 10)
    assert isinstance(policy.admit(request("now", 16.5, prompt=500), STATS), Admit)


def test_it_learns_how_much_of_their_limit_requests_use() -> None:
    """After a hundred requests that stopped at a tenth of their limit, more is admitted."""
    policy = EarliestDeadline(Options())
    eager = request("eager", 5.0, prompt=1, new=100)
    assert isinstance(policy.admit(eager, STATS), Reject)
    for number in range(100):
        policy.admit(request(f"r{number}", new=100), STATS)
        finish(policy, f"r{number}", 9)
    assert isinstance(policy.admit(eager, STATS), Admit)


def test_nothing_is_refused_before_anything_was_measured_or_when_told_not_to() -> None:
    """Without rates there is no ground to refuse on, but a deadline that has passed is one."""
    assert isinstance(EarliestDeadline(Options()).admit(request("a", 0.1), Stats(now=0.0)), Admit)
    assert isinstance(EarliestDeadline(Options()).admit(request("a", -0.1), Stats(now=0.0)), Reject)
    assert isinstance(EarliestDeadline(Options(refuse=False)).admit(request("a", 0.1), STATS), Admit)


def test_a_slot_is_taken_only_for_what_cannot_wait() -> None:
    """The latest deadline is the victim of one that is near; not of one that is far away, and not of a request without one."""
    policy = EarliestDeadline(Options())
    running = [SimulatedSequence(request=request("near", 10.0)), SimulatedSequence(request=request("far", 100.0))]
    assert policy.victim(running, SimulatedSequence(request=request("needy", 20.0)), 0.0) == "far"
    assert policy.victim(running, SimulatedSequence(request=request("needy", 90.0)), 0.0) is None
    assert policy.victim(running, SimulatedSequence(request=request("needy")), 0.0) is None
    assert EarliestDeadline(Options(preempt=False)).victim(running, SimulatedSequence(request=request("needy", 20.0)), 0.0) is None

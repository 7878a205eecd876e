"""Short before long, within a bound."""

from __future__ import annotations

from llmasos_hookspecs import Request
from llmasos_hookspecs.testing import SimulatedSequence
from llmasos_sched_sjf import Options, ShortestJob


def sequence(
    name: str, *, prompt: int = 10, new: int = 10, arrival: float = 0.0, computed: int = 0, generated: int = 0
) -> SimulatedSequence:
    request = Request(id=name, model="m", tokens=range(prompt), max_new_tokens=new, arrival=arrival)
    return SimulatedSequence(request=request, computed=computed, generated=generated)


def test_the_shorter_goes_first_by_new_tokens_mostly() -> None:
    """A new token is ten times the work of a prompt's."""
    policy = ShortestJob(Options())
    short, read, written = sequence("short"), sequence("read", prompt=200), sequence("written", new=200)
    ranks = {each.request.id: policy.rank(each, 0.0) for each in (written, read, short)}
    assert sorted(ranks, key=ranks.__getitem__) == ["short", "read", "written"]


def test_no_request_is_overtaken_by_one_that_arrives_after_the_bound() -> None:
    """The longest job there is still precedes the shortest that came a bound later."""
    policy = ShortestJob(Options(bound=60.0))
    endless, later = sequence("endless", prompt=10**6, new=10**6), sequence("later", prompt=1, new=1, arrival=60.0)
    assert policy.rank(endless, 60.0) < policy.rank(later, 60.0)
    assert policy.rank(sequence("soon", prompt=1, new=1, arrival=30.0), 60.0) < policy.rank(endless, 60.0)


def test_what_is_nearly_done_counts_as_short() -> None:
    """Remaining work is what counts, not the size at arrival."""
    policy = ShortestJob(Options())
    assert policy.rank(sequence("a", new=100, computed=105, generated=95), 0.0) < policy.rank(sequence("b", new=20), 0.0)


def test_a_slot_is_taken_for_a_far_shorter_job_that_outranks() -> None:
    """Eight times the work left, what would be lost included; never when the newcomer does not come first anyway."""
    policy = ShortestJob(Options())
    long = sequence("long", new=200, computed=10, generated=1)
    assert policy.victim([sequence("other"), long], sequence("short", new=5), 0.0) == "long"
    assert policy.victim([long], sequence("half", new=100), 0.0) is None
    assert policy.victim([sequence("long", new=200, prompt=2000, computed=2000, generated=1)], sequence("short", new=5), 0.0) is None
    assert policy.victim([long], sequence("late", new=5, arrival=100.0), 100.0) is None
    assert ShortestJob(Options(preempt_ratio=0.0)).victim([long], sequence("short", new=5), 0.0) is None

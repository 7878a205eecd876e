"""Who is served next when tenants are to have their share."""

from __future__ import annotations

from llmasos_hookspecs import Charge, Request, Stats
from llmasos_hookspecs.testing import SimulatedSequence, Simulation
from llmasos_sched_fair import FairShare, Options

STATS = Stats(now=0.0)


def request(name: str, tenant: str, arrival: float = 0.0, weight: float = 1.0) -> Request:
    return Request(id=name, model="m", tokens=(1, 2), max_new_tokens=3, arrival=arrival, tenant=tenant, weight=weight)


def enter(policy: FairShare, name: str, tenant: str, **fields: float) -> SimulatedSequence:
    made = request(name, tenant, **fields)
    policy.admit(made, STATS)
    return SimulatedSequence(request=made)


def charge(policy: FairShare, name: str, tenant: str, decode: int, *, weight: float = 1.0, finished: bool = False) -> None:
    policy.on_commit([Charge(id=name, tenant=tenant, weight=weight, decode_tokens=decode, finished=finished)])


def first(policy: FairShare, *sequences: SimulatedSequence) -> str:
    return min(sequences, key=lambda sequence: policy.rank(sequence, 0.0)).request.id


def test_the_tenant_who_used_less_is_served_first() -> None:
    """However early the other one came."""
    policy = FairShare(Options())
    a, b = enter(policy, "a", "A", arrival=0.0), enter(policy, "b", "B", arrival=5.0)
    assert first(policy, a, b) == "a"
    charge(policy, "a", "A", 1)
    assert first(policy, a, b) == "b"


def test_weight_counts() -> None:
    """Twice the weight pays half for the same tokens."""
    policy = FairShare(Options())
    a, b = enter(policy, "a", "A", weight=2.0), enter(policy, "b", "B")
    charge(policy, "a", "A", 10, weight=2.0)
    charge(policy, "b", "B", 6)
    assert first(policy, a, b) == "a"


def test_idling_saves_nothing_up() -> None:
    """A tenant that comes late starts level with the least of those who are there, not at nothing."""
    policy = FairShare(Options())
    a = enter(policy, "a", "A")
    charge(policy, "a", "A", 1000)
    late = enter(policy, "late", "L", arrival=9.0)
    charge(policy, "late", "L", 1)
    assert first(policy, a, late) == "a"


def test_leaving_for_a_moment_clears_no_debt() -> None:
    """Who finishes one request and sends the next at once is still as far ahead as it was."""
    policy = FairShare(Options())
    enter(policy, "a1", "A")
    b = enter(policy, "b", "B", arrival=1.0)
    charge(policy, "a1", "A", 50, finished=True)
    a2 = enter(policy, "a2", "A", arrival=0.5)
    assert first(policy, a2, b) == "b"
    charge(policy, "b", "B", 60)
    assert first(policy, a2, b) == "a2"


def test_only_a_large_lead_costs_a_slot_and_the_latest_request_pays() -> None:
    """Below the margin there is no victim; above it the newest request of the tenant that is ahead; never one of the same tenant."""
    policy = FairShare(Options(preempt_margin=100.0, new_cost=1.0))
    old, new = enter(policy, "old", "A", arrival=0.0), enter(policy, "new", "A", arrival=1.0)
    needy, own = enter(policy, "needy", "B", arrival=2.0), enter(policy, "own", "A", arrival=3.0)
    charge(policy, "old", "A", 100)
    assert policy.victim([old, new], needy, 0.0) is None
    charge(policy, "old", "A", 1)
    assert policy.victim([old, new], needy, 0.0) == "new"
    assert policy.victim([old, new], own, 0.0) is None
    assert FairShare(Options(preempt_margin=0.0)).victim([old, new], needy, 0.0) is None


def test_weights_become_shares() -> None:
    """Two tenants with more work than can be done get tokens as 3 to 1."""
    policy = FairShare(Options())
    loop = Simulation(policy, slots=4, kv_capacity=4096)
    for number in range(400):
        for tenant, weight in (("A", 3.0), ("B", 1.0)):
            loop.submit(
                Request(id=f"{tenant}{number}", model="m", tokens=range(8), max_new_tokens=8, arrival=1000.0, tenant=tenant, weight=weight)
            )
    for _ in range(300):
        loop.step()
    served = {tenant: sum(name.startswith(tenant) for name in loop.done) for tenant in "AB"}
    assert 2.4 < served["A"] / served["B"] < 3.6

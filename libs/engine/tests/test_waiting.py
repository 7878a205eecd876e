"""The waiting queue against sorting everything anew."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmasos_engine.policy import GuardedPolicy
from llmasos_engine.sequence import Sequence
from llmasos_engine.waiting import WaitingQueue
from llmasos_hookspecs import Request


class ByTable:
    """Ranks by a table that the test may change: a number for each tenant, then one for each request."""

    def __init__(self) -> None:
        self.tenants: dict[str, float] = {}
        self.requests: dict[str, float] = {}
        self.asked = 0

    def rank(self, sequence: Any, now: float) -> Any:
        self.asked += 1
        request = sequence.request
        return (self.tenants.get(request.tenant, 0), self.requests.get(request.id, 0), request.id)


def sequence(name: str, tenant: str, new: int = 3) -> Sequence:
    request = Request(id=name, model="m", tokens=[1, 2], max_new_tokens=new, arrival=0.0, tenant=tenant)
    return Sequence(request, None, lambda: 0.0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("abc"), st.integers(0, 9)),
        st.tuples(st.just("charge"), st.sampled_from("abc"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.just(""), st.just(0)),
        st.tuples(st.just("remove"), st.just(""), st.integers(0, 20)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_ranks_that_get_worse_are_served_in_exact_order(actions: list[tuple[str, str, int]]) -> None:
    """With counters of tenants that only grow, and arrival within a tenant, the best is the one that sorting everything at that moment
    would give."""
    policy = ByTable()
    queue = WaitingQueue(GuardedPolicy(policy))
    waiting: dict[str, Sequence] = {}
    for number, (action, tenant, value) in enumerate(actions):
        if action == "push":
            name = f"r{number}"
            policy.requests[name] = number
            waiting[name] = sequence(name, tenant)
            queue.push(waiting[name], 0.0)
        elif action == "charge":
            policy.tenants[tenant] = policy.tenants.get(tenant, 0) + value
        elif action == "remove" and waiting:
            gone = waiting.pop(list(waiting)[value % len(waiting)])
            queue.remove(gone, 0.0)
            assert gone not in queue
        best = queue.best(0.0)
        assert best is min(waiting.values(), key=lambda each: policy.rank(each, 0.0), default=None)
        if action == "take" and best is not None:
            queue.remove(waiting.pop(best.request.id), 0.0)
        queue.refresh(0.0)
        assert len(queue) == len(waiting)
        assert queue.tokens == sum(each.remaining for each in waiting.values())
        assert queue.prompt_tokens == 2 * len(waiting)
        assert {each.request.id for each in queue.sequences()} == set(waiting)


def test_ranks_that_get_better_are_found_in_turn() -> None:
    """A rank that improves while its sequence waits is noticed after each has had its turn."""
    policy = ByTable()
    queue = WaitingQueue(GuardedPolicy(policy))
    all_of_them = [sequence(f"r{number:03}", "a") for number in range(300)]
    for each in all_of_them:
        policy.requests[each.request.id] = 1
        queue.push(each, 0.0)
    assert queue.best(0.0) is all_of_them[0]
    policy.requests["r200"] = 0
    for _ in range(300 // 16 + 1):
        queue.refresh(0.0)
    assert queue.best(0.0) is all_of_them[200]


def test_a_step_looks_at_a_bounded_number_of_candidates() -> None:
    """With 10,000 waiting, of one tenant or of as many tenants, a step asks for fewer than a hundred ranks."""
    for tenants in (1, 10_000):
        policy = ByTable()
        queue = WaitingQueue(GuardedPolicy(policy))
        for number in range(10_000):
            queue.push(sequence(f"r{number}", f"t{number % tenants}"), 0.0)
        for step in range(3):
            for number in range(10_000):
                policy.tenants[f"t{number % tenants}"] = step + number  # every rank changes at every step
            policy.asked = 0
            queue.refresh(0.0)
            assert queue.best(0.0) is not None
            assert policy.asked < 100


def test_the_best_is_found_behind_64_whose_ranks_got_worse() -> None:
    """So many one search ranks again."""
    policy = ByTable()
    queue = WaitingQueue(GuardedPolicy(policy))
    for number in range(65):
        policy.tenants[f"t{number}"] = number
        queue.push(sequence(f"r{number}", f"t{number}"), 0.0)
    for number in range(64):
        policy.tenants[f"t{number}"] = 1000 + number
    best = queue.best(0.0)
    assert best is not None
    assert best.request.id == "r64"


def test_a_flood_hides_nobody() -> None:
    """However many a charged tenant has waiting, another tenant's request is found at once."""
    policy = ByTable()
    queue = WaitingQueue(GuardedPolicy(policy))
    for number in range(5_000):
        queue.push(sequence(f"flood{number}", "flood"), 0.0)
    quiet = sequence("quiet", "quiet")
    policy.tenants["quiet"] = 1
    queue.push(quiet, 0.0)
    assert queue.best(0.0) is not quiet
    policy.tenants["flood"] = 2
    assert queue.best(0.0) is quiet


def test_memory_does_not_grow_with_what_has_passed_through() -> None:
    """After 5,000 requests have come and gone, nothing is kept but for the one that waits."""
    policy = ByTable()
    queue = WaitingQueue(GuardedPolicy(policy))
    stay = sequence("stay", "last")
    policy.tenants["last"] = 10**9
    queue.push(stay, 0.0)
    for number in range(5_000):
        each = sequence(f"r{number}", f"t{number % 500}")
        queue.push(each, 0.0)
        queue.refresh(0.0)
        queue.remove(each, 0.0)
    assert len(queue._heads) + len(queue._waiting) + sum(map(len, queue._tenants.values())) == 3


@pytest.mark.parametrize("seed", range(5))
def test_ranks_without_an_order_lose_nobody(seed: int) -> None:
    """A policy whose ranks are now and then NaN is asked on, and every sequence can be found, ranked again and removed."""
    draw = random.Random(seed)
    policy = ByTable()
    guarded = GuardedPolicy(policy)
    queue = WaitingQueue(guarded)
    waiting = []
    for number in range(40):
        each = sequence(f"r{number}", f"t{number % 3}")
        policy.requests[each.request.id] = float("nan") if draw.random() < 0.5 else draw.random()
        queue.push(each, 0.0)
        waiting.append(each)
    draw.shuffle(waiting)
    while waiting:
        assert queue.best(0.0) in waiting
        queue.refresh(0.0)
        queue.remove(waiting.pop(), 0.0)
        assert len(queue) == len(waiting)
    assert queue.best(0.0) is None
    assert not guarded.by_arrival

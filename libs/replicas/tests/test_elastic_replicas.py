"""Replicas come where requests wait, and go, once they have finished, where there is little to do."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st
from libs.replicas.tests.seats import ScriptedPlacement, ScriptedSeat, specs

from llmasos_hookspecs import Host, Request, ResourceError, SeatSpec
from llmasos_replicas.replica_range import ReplicaRange
from llmasos_replicas.replica_set import ReplicaSet
from llmasos_replicas.scaling import Load, Scaling

SECONDS = 30.0  # after which somebody counts as one who waits for ever
_numbers = itertools.count()
BOUNDS = ReplicaRange(min=1, max=3, queue=2, ttft=None, idle=10.0)
QUIET = Load(replicas=1, starting=0, waiting=0, unfinished=0, longest=0.0)


def load(**changes: Any) -> Load:
    return attrs.evolve(QUIET, **changes)


def test_a_queue_that_stays_long_asks_for_more() -> None:
    """After a second, and for as many as the queue needs; none while others are being started."""
    scaling = Scaling(BOUNDS, sequences=4)
    long = load(waiting=3, unfinished=3)
    assert [scaling.target(now, long) for now in (0.0, 0.9, 1.0)] == [1, 1, 2]
    assert [scaling.target(now, attrs.evolve(long, replicas=2, starting=1)) for now in (1.1, 5.0)] == [2, 2]
    assert [scaling.target(now, load(waiting=90, unfinished=90)) for now in (6.0, 7.0)] == [1, 3]


def test_a_burst_that_is_over_in_a_second_asks_for_none() -> None:
    scaling = Scaling(BOUNDS, sequences=4)
    assert [scaling.target(now, load(waiting=waiting)) for now, waiting in ((0.0, 9), (0.5, 2), (1.0, 9), (1.9, 9))] == [1] * 4


def test_first_tokens_that_come_late_ask_for_more() -> None:
    """Those that came lately, and those that have not come yet; what came long ago counts no more."""
    bounds = attrs.evolve(BOUNDS, ttft=0.5)
    scaling = Scaling(bounds, sequences=4)
    scaling.first_token(0.0, 0.6)
    assert [scaling.target(now, QUIET) for now in (0.0, 1.0)] == [1, 2]
    assert [scaling.target(now, QUIET) for now in (31.0, 40.0)] == [1, 1]
    assert [scaling.target(now, load(waiting=1, longest=0.7)) for now in (41.0, 42.0)] == [1, 2]


def test_what_is_not_needed_for_long_goes() -> None:
    """One at a time; room for twice the requests is left, and never fewer than the least."""
    scaling = Scaling(BOUNDS, sequences=4)
    idle = load(replicas=3, unfinished=4)
    assert [scaling.target(now, idle) for now in (0.0, 9.0, 10.0, 11.0, 20.0)] == [3, 3, 2, 3, 2]
    assert [scaling.target(now, load(replicas=2, unfinished=3)) for now in (21.0, 99.0)] == [2, 2]
    assert [scaling.target(now, QUIET) for now in (100.0, 200.0)] == [1, 1]


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_the_bounds_hold(steps: list[tuple[float, int, int]]) -> None:
    """Whatever the load: between the least and the most, and never fewer while requests wait."""
    scaling, now, replicas = Scaling(BOUNDS, sequences=4), 0.0, 1
    for seconds, waiting, more in steps:
        now += seconds
        target = scaling.target(now, load(replicas=replicas, waiting=waiting, unfinished=waiting + more))
        assert BOUNDS.min <= target <= BOUNDS.max
        assert target >= replicas or 2 * (waiting + more) <= target * 4
        replicas = target


class HeldSeat(ScriptedSeat):
    """Answers when it is told to."""

    def __init__(
        self, number: int, where: str, changed: threading.Condition, receive: Callable[[bytes], None], end: Callable[[str], None]
    ) -> None:
        super().__init__(receive, end)
        self.number, self.where = number, where
        self.held: list[str] = []
        self._changed = changed

    def submitted(self, request: Request) -> None:
        with self._changed:
            self.held.append(request.id)
            self._changed.notify_all()

    def answer_held(self) -> None:
        held, self.held = self.held, []
        self.answer(*held)


class HeldPlacement(ScriptedPlacement):
    def __init__(self) -> None:
        super().__init__(self._seat)
        self.changed = threading.Condition()
        self.full = False
        self.refused = 0
        self.leaving = False

    def hosts(self) -> Sequence[Host]:
        return [Host(name="here", cpus=1, leaving=self.leaving), Host(name="there", cpus=1)]

    def _seat(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> HeldSeat:
        if self.full:
            self.refused += 1
            raise ResourceError("No host has room.")
        where = "there, pid 2" if self.leaving or spec.number else "here, pid 1"
        return HeldSeat(spec.number, where, self.changed, on_message, on_end)


@attrs.define
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@attrs.define
class Served:
    replicas: ReplicaSet
    placement: HeldPlacement
    clock: Clock

    def submit(self, count: int) -> list[Any]:
        numbers = itertools.islice(_numbers, count)
        now = self.clock.now
        requests = [Request(id=f"r{each}", model="m", tokens=(1, each % 8), max_new_tokens=1, arrival=now) for each in numbers]
        return [self.replicas.submit(each) for each in requests]

    def held(self, count: int) -> list[int]:
        """How many requests each seat has not answered, once there are ``count`` of them."""
        seats = self.placement.seats
        with self.placement.changed:
            assert self.placement.changed.wait_for(lambda: sum(len(seat.held) for seat in seats) == count, SECONDS)
            return [len(seat.held) for seat in seats]

    def spread(self) -> list[Any]:
        """Submit requests until each seat has one."""
        tickets = self.submit(3)
        while min(self.held(len(tickets))) == 0:
            tickets += self.submit(1)
        return tickets

    def states(self) -> list[str]:
        return [each["state"] for each in self.replicas.describe()]

    def after(self, seconds: float, states: list[str]) -> None:
        """Let time pass; then the replicas get into these states."""
        self.replicas.look(0.0)
        self.clock.now += seconds
        self.replicas.look(0.0)
        reached = self.replicas._changes.wait_for(lambda: sorted(self.states()) == sorted(states), SECONDS)
        assert reached, self.states()


@pytest.fixture
def served() -> Iterator[Served]:
    placement, clock = HeldPlacement(), Clock()
    made = ReplicaSet("m", specs(BOUNDS.max), placement, elastic=BOUNDS, clock=clock)
    yield Served(made, placement, clock)
    made.close()


def test_replicas_come_with_requests_and_go_when_they_have_finished(served: Served) -> None:
    """A replica that goes gets no more requests, finishes those that it has, and counts as no restart."""
    assert served.states() == ["ready"]
    first = served.submit(5)
    served.held(5)
    served.after(1.0, ["ready"] * 3)
    served.placement.seats[0].answer_held()
    assert all(each.result(SECONDS).text == "x" for each in first)
    one_each = served.spread()
    served.after(10.0, ["ready", "ready", "draining"])
    (leaving,) = [each["replica"] for each in served.replicas.describe() if each["state"] == "draining"]
    (seat,) = [seat for seat in served.placement.seats if seat.number == leaving]
    before = len(seat.held)
    more = served.submit(4)
    served.held(len(one_each) + 4)
    assert len(seat.held) == before
    for each in served.placement.seats:
        each.answer_held()
    assert all(each.result(SECONDS).text == "x" for each in [*one_each, *more])
    served.after(0.0, ["ready", "ready"])
    served.after(10.0, ["ready"])
    served.after(99.0, ["ready"])
    assert served.replicas.restarts == 0
    assert sum(seat.ended for seat in served.placement.seats) == 2


def test_one_that_was_to_go_stays_where_requests_come(served: Served) -> None:
    """Rather than starting another one."""
    served.submit(5)
    served.held(5)
    served.after(1.0, ["ready"] * 3)
    served.placement.seats[0].answer_held()
    served.spread()
    served.after(10.0, ["ready", "ready", "draining"])
    served.submit(30)
    served.after(1.0, ["ready"] * 3)
    assert len(served.placement.seats) == 3


def test_a_placement_that_has_no_room_is_asked_again(served: Served) -> None:
    served.placement.full = True
    served.submit(9)
    served.after(1.0, ["ready"])
    assert served.replicas._changes.wait_for(lambda: served.placement.refused == 2 and not served.replicas._growing, SECONDS)
    served.placement.full = False
    served.after(1.0, ["ready"] * 3)


def test_replicas_leave_a_host_that_will_be_gone(served: Served) -> None:
    """Once they have finished; another one takes the place of each, and no request fails."""
    served.submit(5)
    served.held(5)
    served.after(1.0, ["ready"] * 3)
    seat = served.placement.seats[0]
    seat.answer_held()
    held = served.spread()
    served.placement.leaving = True
    served.after(5.0, ["draining", "ready", "ready"])
    before = len(seat.held)
    more = served.submit(4)
    served.held(len(held) + 4)
    assert len(seat.held) == before
    for each in list(served.placement.seats):
        each.answer_held()
    assert all(each.result(SECONDS).text == "x" for each in [*held, *more])
    served.after(0.0, ["ready"] * 3)
    assert {each["where"] for each in served.replicas.describe()} == {"there, pid 2"}
    assert served.replicas.restarts == 0

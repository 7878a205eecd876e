"""A replica that dies again and again: others serve meanwhile, and it comes back when it has rested."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from libs.replicas.tests.seats import ScriptedPlacement, ScriptedSeat, specs

from llmasos_engine.step_meter import Listeners
from llmasos_hookspecs import EngineFailed, PromptProgress, Request, SeatSpec
from llmasos_replicas import restarts
from llmasos_replicas.replica import Replica
from llmasos_replicas.replica_set import ReplicaSet

SECONDS = 120.0  # after which somebody counts as one who waits for ever


class MortalSeat(ScriptedSeat):
    """Answers each request at once, or dies as soon as it is ready."""

    def __init__(self, dies: Callable[[], bool], receive: Callable[[bytes], None], end: Callable[[str], None]) -> None:
        super().__init__(receive, end)
        self._dies = dies

    def opened(self) -> None:
        super().opened()
        if self._dies():
            self.end("died")

    def submitted(self, request: Request) -> None:
        self.answer(request.id)


class MortalPlacement(ScriptedPlacement):
    def __init__(self) -> None:
        super().__init__(self._seat)
        self.starts: list[int] = []
        self.dying: set[int] = set()

    def _seat(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> MortalSeat:
        self.starts.append(spec.number)
        return MortalSeat(lambda: spec.number in self.dying, on_message, on_end)


@pytest.fixture
def placement() -> MortalPlacement:
    return MortalPlacement()


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def replicas(placement: MortalPlacement, lost: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplicaSet]:
    monkeypatch.setattr(restarts, "_REST", (0.05, 0.2))
    made = ReplicaSet("m", specs(2), placement, on_lost=lost.set)
    yield made
    made.close()


def request() -> Request:
    return Request(id="r", model="m", tokens=(1, 2), max_new_tokens=1, arrival=0.0)


def test_a_replica_that_died_often_comes_back(replicas: ReplicaSet, placement: MortalPlacement) -> None:
    """Others answer meanwhile; what it died of may be over when it has rested."""
    placement.dying = {0}
    replicas._replicas[0].kill("died first")
    while placement.starts.count(0) < 7:  # the first time, three times at once, and after each of three rests
        assert replicas.submit(request()).result(SECONDS).text == "x"
        time.sleep(0.01)
    placement.dying = set()
    whole = replicas._changes.wait_for(lambda: [each["state"] for each in replicas.describe()] == ["ready"] * 2, SECONDS)
    assert whole
    assert placement.starts.count(1) == 1


def test_a_request_of_which_nothing_is_computed_moves_with_its_progress() -> None:
    """That it has a slot is told before its first step: the replica that dies in that step had not begun it."""

    class FirstDies(ScriptedSeat):
        def submitted(self, request: Request) -> None:
            if placement.seats.index(self) != 0:
                return self.answer(request.id)
            self.tell("answers", [("prefill", request.id, PromptProgress(total=2, cached=0, processed=0, seconds=0.0))])
            return self.end("died in the first step")

    placement = ScriptedPlacement(lambda _, on_message, on_end: FirstDies(on_message, on_end))
    made = ReplicaSet("m", specs(1), placement)
    try:
        ticket = made.submit(request())
        assert ticket.result(SECONDS).text == "x"
        assert ticket.progress == PromptProgress(total=2, cached=0, processed=0, seconds=0.0)
    finally:
        made.close()


def test_a_model_whose_replicas_all_die_is_lost(replicas: ReplicaSet, placement: MortalPlacement, lost: threading.Event) -> None:
    """No rest helps where no other replica is ready."""
    placement.dying = {0, 1}
    replicas._replicas[0].kill("died first")
    replicas._replicas[1].kill("died first")
    assert lost.wait(SECONDS)
    with pytest.raises(EngineFailed, match="Every replica of m died 4 times without an answer; the last one died"):
        replicas.submit(request())


def test_rests_grow_until_the_replica_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is twice as long as the one before, up to the longest, and a replica is told once that its own is over."""
    monkeypatch.setattr(restarts, "_REST", (2.0, 7.0))
    now = 0.0
    each = restarts.Restarts(2, lambda: now)
    assert [each.died(0) for _ in range(4)] == [True, True, True, False]
    rests = []
    for _ in range(3):
        rests.append(each.rest(0))
        assert each.rested() == []
        assert each.resting
        now += rests[-1]
        assert each.rested() == [0]
        assert not each.resting
    assert rests == [2.0, 4.0, 7.0]
    each.answered(0)
    assert each.rest(0) == 2.0
    assert each.died(0)
    assert [each.died(1) for _ in range(4)] == [True, True, True, False]


class HastySeat(ScriptedSeat):
    """Says something, which is no message, before the placement has given it away."""

    def __init__(self, receive: Callable[[bytes], None], end: Callable[[str], None]) -> None:
        super().__init__(receive, end)
        receive(b"no message")


def test_a_seat_that_is_misunderstood_before_it_is_given_away_is_ended() -> None:
    """A placement that speaks on a thread of its own may be quicker than who started the seat."""
    placement = ScriptedPlacement(lambda _, receive, end: HastySeat(receive, end))
    heard: list[str] = []
    replica = Replica(0, specs(1)[0], placement, "placement", lambda _, verb, __: heard.append(verb), Listeners())
    assert placement.seats[0].ended
    assert heard == ["died"]
    assert "said what is no answer" in replica.end

"""A replica that dies again and again: others serve meanwhile, and it comes back when it has rested."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from llmasos.compose.replicas import restarts
from llmasos.compose.replicas.numbered import Arrivals, numbered
from llmasos.compose.replicas.replica_set import ReplicaSet
from llmasos.compose.replicas.spec import WorkerSpec, versions
from llmasos.compose.replicas.wire import pack, unpack
from llmasos.residency.prediction import Need
from llmasos.system.config import Config
from llmasos_hookspecs import EngineFailed, EngineInfo, Generation, Host, Request, SeatSpec

SECONDS = 120.0  # after which somebody counts as one who waits for ever
INFO = EngineInfo(vocab_size=8, context_length=64, max_sequences=1, weight_bytes=8, kv_bytes_per_token=1)
NEED = Need(weights=8, peak=8, kv_bytes_per_token=1, context_length=64, load_seconds=0.0)


class FakeSeat:
    """Answers each request at once, or dies as soon as it is ready."""

    where = "here"

    def __init__(self, dies: Callable[[], bool], receive: Callable[[bytes], None], end: Callable[[str], None]) -> None:
        self._dies, self._receive, self._end = dies, receive, end
        self._told = 0
        self._arrivals = Arrivals()

    def tell(self, *message: object) -> None:
        self._receive(numbered(self._told, pack(message)))
        self._told += 1

    def send(self, message: bytes) -> bool:
        verb, *arguments = unpack(self._arrivals.take(message) or b"")
        if verb == "open":
            self.tell("hello", versions())
            self.tell("ready", INFO, NEED, "a loader", 64, 64, 1)
            if self._dies():
                self._end("died")
        if verb == "submit":
            answer = Generation(text="x", tokens=(1,), finish_reason="length", prompt_tokens=1)
            self.tell("answers", [("done", arguments[1].id, answer)])
        return True

    def kill(self) -> None:
        self._end("was killed")


class FakePlacement:
    def __init__(self) -> None:
        self.starts: list[int] = []
        self.dying: set[int] = set()

    def hosts(self) -> Sequence[Host]:
        return []

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> FakeSeat:
        self.starts.append(spec.number)
        return FakeSeat(lambda: spec.number in self.dying, on_message, on_end)

    def close(self) -> None: ...


@pytest.fixture
def placement() -> FakePlacement:
    return FakePlacement()


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def replicas(placement: FakePlacement, lost: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplicaSet]:
    monkeypatch.setattr(restarts, "_REST", (0.05, 0.2))
    config = Config.from_mapping({"model": {"source": "/nowhere"}})
    specs = [WorkerSpec(config=config, seat=SeatSpec(model="m", number=number, entry="x:y")) for number in range(2)]
    made = ReplicaSet("m", specs, placement, on_lost=lost.set)
    yield made
    made.close()


def request() -> Request:
    return Request(id="r", model="m", tokens=(1, 2), max_new_tokens=1, arrival=0.0)


def test_a_replica_that_died_often_comes_back(replicas: ReplicaSet, placement: FakePlacement) -> None:
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


def test_a_model_whose_replicas_all_die_is_lost(replicas: ReplicaSet, placement: FakePlacement, lost: threading.Event) -> None:
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

"""Requests of event loops on their way to a model: bounded, without a thread while they wait, and gone as soon as they are given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from llmasos.compose.serving import Sending, Wanted
from llmasos.compose.waiting_room import WaitingRoom
from llmasos_hookspecs import Cancelled, EngineFailed, Rejected, RequestError
from llmasos_plugin_calls.workers import Workers


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 30))


def running_threads() -> int:
    return sum(thread.name == "llmasos-tested" for thread in threading.enumerate())


class Trips:
    """Requests for leases on a model, and what became of them."""

    def __init__(self, model: Any, tokens: int = 0) -> None:
        self.model = model
        self.tokens = tokens
        self.ended: list[str] = []
        self.given_up: list[str] = []
        self.unsent = 0
        self.before: Callable[[], Any] = lambda: None

    def sending(self) -> Sending[str]:
        try:
            lease = yield Wanted(self.model, self.tokens)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.before()
        lease.release()
        self.ended.append("sent")
        return "sent"

    def go(self, room: WaitingRoom) -> Coroutine[Any, Any, str]:
        return room.send(self.sending, self.given_up.append, self.end)

    def end(self) -> None:
        self.unsent += 1


@pytest.fixture
def home(harness: Any) -> Any:
    """A model that can be used at once, and one that must wait for its memory."""
    home = harness(100)
    home.held = home.residency.acquire(home.add("free", 60))
    home.add("waits", 60)
    return home


def test_it_returns_what_the_steps_return_and_raises_what_they_raise(home: Any) -> None:
    room = WaitingRoom(1, home.residency)
    home.add("fails", 10)
    home.models["fails"].failure = EngineFailed("no such kernel")

    def refused() -> Sending[str]:
        raise RequestError("No seven.")
        yield Wanted(home.places["free"], 0)

    async def main() -> None:
        assert await Trips(home.places["free"]).go(room) == "sent"
        with pytest.raises(RequestError, match="seven"):
            await room.send(refused, lambda _: None)
        trips = Trips(home.places["fails"])
        with pytest.raises(EngineFailed, match="no such kernel"):
            await trips.go(room)
        assert (trips.ended, trips.unsent) == (["EngineFailed"], 1), "What the steps hold is freed where there is no lease."
        assert room.taken == 0

    run(main())


def test_requests_that_wait_take_no_thread_and_more_than_the_seats_are_refused(home: Any) -> None:
    room = WaitingRoom(200, home.residency)
    trips = Trips(home.places["waits"])

    async def main() -> None:
        waiting = [asyncio.create_task(trips.go(room)) for _ in range(200)]
        while len(home.residency.queue) < 200:
            await asyncio.sleep(0.001)
        with pytest.raises(Rejected, match="max_waiting") as refused:
            await trips.go(room)
        assert refused.value.retry_after
        assert trips.unsent == 1
        done = threading.Event()
        room._workers.do(done.set)
        assert await asyncio.to_thread(done.wait, 30), "Requests that wait hold the threads that prepare others."
        home.held.release()
        assert await asyncio.gather(*waiting) == ["sent"] * 200
        assert room.taken == 0

    run(main())


def test_a_request_given_up_while_it_waits_leaves_at_once(home: Any) -> None:
    """Its seat, its place in the queue and what its steps hold are free before its task has ended, though the memory never comes."""
    room, trips = WaitingRoom(1, home.residency), Trips(home.places["waits"])

    async def main() -> None:
        task = asyncio.create_task(trips.go(room))
        while not home.residency.queue:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (room.taken, home.residency.queue, trips.ended, trips.given_up) == (0, [], [Cancelled.__name__], [])
        assert trips.unsent == 1

    run(main())


def test_a_request_given_up_during_its_steps_ends_with_them(home: Any) -> None:
    """What they return is given up, once; also where the event loop has been closed meanwhile."""
    for closed in (False, True):
        room, trips = WaitingRoom(1, home.residency), Trips(home.places["free"])
        gate, reached = threading.Event(), threading.Event()
        trips.before = lambda gate=gate, reached=reached: (reached.set(), gate.wait(30))

        async def main(room: WaitingRoom = room, trips: Trips = trips, closed: bool = closed) -> None:
            task = asyncio.create_task(trips.go(room))
            await asyncio.to_thread(reached.wait, 30)  # noqa: B023 - it runs within the round
            task.cancel()
            if not closed:
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert room.taken == 0
                gate.set()  # noqa: B023
                while not trips.given_up:
                    await asyncio.sleep(0.001)

        run(main())
        gate.set()
        for _ in range(3000):
            if trips.given_up:
                break
            threading.Event().wait(0.01)
        assert (trips.given_up, trips.ended, trips.unsent, room.taken) == (["sent"], ["sent"], 0, 0)


def test_threads_end_when_there_is_no_more_to_do() -> None:
    workers = Workers(3, "llmasos-tested")
    gate, done = threading.Event(), threading.Barrier(4)
    for _ in range(3):
        workers.do(lambda: (gate.wait(30), done.wait(30)))
    workers.do(lambda: 1 // 1)
    while running_threads() < 3:  # each starts the next
        threading.Event().wait(0.001)
    gate.set()
    done.wait(30)
    workers.close()
    for _ in range(3000):
        if not running_threads():
            return
        threading.Event().wait(0.01)
    raise AssertionError("The threads did not end.")


def test_work_wakes_one_idle_thread() -> None:
    """The one that worked last: the others sleep, and may end."""
    workers = Workers(4, "llmasos-tested")
    together, done, threads = threading.Barrier(5), threading.Event(), set()

    def note() -> None:
        threads.add(threading.get_ident())
        done.set()

    for _ in range(4):
        workers.do(lambda: together.wait(30))
    together.wait(30)
    for _ in range(100):
        while len(workers._idle) < 4:
            threading.Event().wait(0.001)
        done.clear()
        workers.do(note)
        assert done.wait(30)
    workers.close()
    assert len(threads) == 1


def test_a_burst_of_short_work_wakes_few_threads_and_long_work_all() -> None:
    """While a thread is on its way to the work, no other is woken; and what blocks one keeps nothing from the others."""
    workers = Workers(8, "llmasos-tested")
    gate, threads, left = threading.Event(), set(), threading.Semaphore(0)

    def block() -> None:
        assert gate.wait(30)
        left.release()

    def note() -> None:
        threads.add(threading.get_ident())
        left.release()

    with workers._lock:  # as the burst of one turn of an event loop: no thread comes to look in between
        for _ in range(500):
            workers.do(note)
        assert running_threads() == 1
    for _ in range(500):
        assert left.acquire(timeout=30)
    for _ in range(7):
        workers.do(block)
    workers.do(note)
    assert left.acquire(timeout=30), "The eighth thread does what waits behind seven that are blocked."
    gate.set()
    for _ in range(7):
        assert left.acquire(timeout=30)
    workers.close()


def test_what_a_step_takes_while_its_request_is_given_up_is_freed_by_it(home: Any) -> None:
    """A reservation, say, that is made when nobody waits for it any more: nothing ends before the step, and all after it."""
    room, order = WaitingRoom(1, home.residency), list[str]()
    gate, reached = threading.Event(), threading.Event()

    def sending() -> Sending[str]:
        reached.set()
        gate.wait(30)
        order.append("reserved")
        try:
            (yield Wanted(home.places["waits"], 0)).release()
        except Cancelled:
            order.append("freed")
            raise
        return "sent"

    async def main() -> None:
        task = asyncio.create_task(room.send(sending, lambda _: order.append("given up"), lambda: order.append("unsent")))
        await asyncio.to_thread(reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert order == []
        gate.set()
        while "unsent" not in order:
            await asyncio.sleep(0.001)
        assert order == ["reserved", "freed", "unsent"]

    run(main())

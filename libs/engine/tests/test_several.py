"""The pieces of several answers, as they come."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from llmasos_engine import several
from llmasos_engine.several import Arrival, Delivery, abatches_of, joined, pieces_of
from llmasos_engine.ticket import Piece, Ticket
from llmasos_hookspecs import TokenLogprob

SECONDS = 20.0


def read_at_once(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    return list(pieces_of(tickets))


def read_on_an_event_loop(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    async def read() -> list[tuple[int, Piece | None]]:
        return [arrival async for batch in abatches_of(tickets) for arrival in batch]

    return asyncio.run(asyncio.wait_for(read(), SECONDS))


def have_delivered(tickets: Sequence[Ticket[Any]], every: float = 0.0) -> list[tuple[int, Piece | None]]:
    found: list[Arrival] = []

    async def main() -> None:
        await asyncio.wait_for(Delivery(tickets, found.extend, every).run(), SECONDS)

    asyncio.run(main())
    return found


def have_delivered_to_a_slow_reader(tickets: Sequence[Ticket[Any]], every: float = 0.0) -> list[tuple[int, Piece | None]]:
    """It gets nothing while what it returned is awaited."""
    found: list[Arrival] = []
    reads = False

    async def read(batch: Sequence[Arrival]) -> None:
        nonlocal reads
        await asyncio.sleep(0.001)
        found.extend(batch)
        reads = False

    def receive(batch: Sequence[Arrival]) -> Awaitable[None] | None:
        nonlocal reads
        assert batch
        assert not reads
        reads = True
        return read(batch)

    async def main() -> None:
        await asyncio.wait_for(Delivery(tickets, receive, every).run(), SECONDS)

    asyncio.run(main())
    return found


READERS = [
    read_at_once,
    read_on_an_event_loop,
    *(partial(read, every=every) for read in (have_delivered, have_delivered_to_a_slow_reader) for every in (0.0, 1e-6, 0.002, math.inf)),
]


@pytest.mark.parametrize("read", READERS)
def test_each_answer_comes_in_order_and_ends_once(read: Callable[[Sequence[Ticket[Any]]], list[tuple[int, Piece | None]]]) -> None:
    """Of an answer that has ended before it is read, and of two that another thread gives."""
    cancelled: list[str] = []
    tickets: list[Ticket[str]] = [Ticket(name, partial(cancelled.append, name)) for name in "abc"]
    tickets[0].emit("x")
    tickets[0].finish("x")

    def answer() -> None:
        for number in range(500):
            for ticket in tickets[1:]:
                ticket.emit(f"{number} ")
        for ticket in tickets[1:]:
            ticket.finish("over")

    thread = threading.Thread(target=answer)
    thread.start()
    found: defaultdict[int, list[str | None]] = defaultdict(list)
    for place, piece in read(tickets):
        found[place].append(None if piece is None else piece.text)
    thread.join()
    numbers = [f"{number} " for number in range(500)]
    assert found == {0: ["x", None], 1: [*numbers, None], 2: [*numbers, None]}
    assert cancelled == [], "They had ended."


@pytest.mark.parametrize("way", ["raises", "stops", "is cancelled"])
def test_a_delivery_that_ends_early_cancels_the_requests_and_gives_nothing_more(way: str) -> None:
    """What the function raises is raised to who waits for the delivery; of the rest nobody hears."""
    cancelled: list[str] = []
    tickets: list[Ticket[str]] = [Ticket(name, partial(cancelled.append, name)) for name in "ab"]
    found: list[Arrival] = []

    async def main() -> None:
        def receive(batch: Sequence[Arrival]) -> None:
            found.extend(batch)
            if way == "raises":
                raise ValueError("enough")
            if way == "stops":
                delivery.stop()
            else:
                task.cancel()

        delivery = Delivery(tickets, receive)
        task = asyncio.create_task(delivery.run())
        await asyncio.sleep(0)
        assert found == []
        tickets[1].emit("x")
        if way == "stops":
            await asyncio.wait_for(task, SECONDS)
        else:
            with pytest.raises(ValueError if way == "raises" else asyncio.CancelledError):
                await task
        assert cancelled == ["a", "b"]
        tickets[0].emit("y")
        tickets[0].finish("over")
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert found == [(1, Piece("x"))]


def test_no_task_is_resumed_for_a_piece() -> None:
    """Nor any future made: a hundred pieces are as many calls of the event loop, and each comes in a turn of its own."""
    ticket: Ticket[str] = Ticket("a", lambda: None)
    turns: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        scheduled = 0
        call_soon = loop.call_soon

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal scheduled
            scheduled += 1
            return call_soon(*arguments, **options)

        task = asyncio.create_task(Delivery([ticket], lambda batch: turns.append(len(batch))).run())
        await asyncio.sleep(0)
        loop.call_soon = counted  # type: ignore[method-assign]  # of this one

        def answer() -> None:
            for number in range(100):
                before = len(turns)
                ticket.emit(f"{number} ")
                while len(turns) == before:
                    threading.Event().wait(0.0001)

        await asyncio.to_thread(answer)
        assert turns == [1] * 100
        assert scheduled <= 10, "Those of the thread that answers."
        ticket.finish("over")
        await task

    asyncio.run(main())


class Paced:
    """Deliveries of two tickets on an event loop whose time the test sets, one batch in ``every`` seconds at most.

    Attributes:
        found: the batches, each with the ticket's name, the texts joined, and the time.
        woken: how often the event loop was, by the thread that answers.
        timers: when it is to wake by itself.
    """

    def __init__(self, every: float, patch: pytest.MonkeyPatch) -> None:
        self.tickets: dict[str, Ticket[str]] = {name: Ticket(name, lambda: None) for name in "ab"}
        self.found: list[tuple[str, str, float]] = []
        self.woken = 0
        self.timers: list[float] = []
        self._every = every
        self._patch = patch
        self._now = 0.0

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        call_soon, call_at = loop.call_soon_threadsafe, loop.call_at

        def woken(*arguments: Any, **options: Any) -> Any:
            self.woken += 1
            return call_soon(*arguments, **options)

        def timed(when: float, *arguments: Any, **options: Any) -> Any:
            self.timers.append(when)
            return call_at(when, *arguments, **options)

        loop.time = lambda: self._now  # type: ignore[method-assign]  # of this one
        self._patch.setattr(several, "time", SimpleNamespace(monotonic=lambda: self._now))
        loop.call_soon_threadsafe = woken  # type: ignore[method-assign]  # of this one
        loop.call_at = timed  # type: ignore[method-assign]  # of this one
        self._runs = [
            asyncio.create_task(Delivery([each], partial(self._take, name), self._every).run()) for name, each in self.tickets.items()
        ]
        await self.at(0)

    async def at(self, time: float) -> None:
        """Let the event loop do what is due."""
        self._now = time
        for _ in range(5):
            await asyncio.sleep(0)

    async def emit(self, time: float, text: str, *names: str) -> None:
        """A piece of each of these answers."""
        self._now = time
        for name in names or ("a",):
            self.tickets[name].emit(text)
        await self.at(time)

    async def end(self) -> None:
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    def _take(self, name: str, batch: Sequence[Arrival]) -> None:
        self.found.append((name, "".join("." if piece is None else piece.text for _, piece in batch), self._now))


def paced(every: float, steps: Callable[[Paced], Any]) -> Paced:
    """What the test does on the event loop."""

    async def main(found: Paced) -> None:
        await found.begin()
        await steps(found)
        await found.end()

    with pytest.MonkeyPatch.context() as patch:
        found = Paced(every, patch)
        asyncio.run(main(found))
    return found


def test_pieces_that_come_too_soon_wait_for_the_event_loop_to_look() -> None:
    """The first one comes at once, and the one after it, which shows how fast they come; then nobody wakes the event loop, which looks
    once in ten seconds until there is nothing. A piece after a silence comes at once, and so does the end, with what came before it."""

    async def steps(of: Paced) -> None:
        for time, text in ((0, "1"), (1, "2"), (2, "3"), (3, "4")):
            await of.emit(time, text)
        await of.at(11)
        await of.emit(12, "5")
        await of.at(21)  # with 5
        await of.at(31)  # with nothing
        await of.emit(60, "6")
        assert of.woken == 3
        await of.emit(61, "7")
        await of.emit(62, "8")
        of.tickets["a"].finish("over")
        await of.at(63)

    found = paced(10.0, steps)
    assert found.found == [("a", "1", 0), ("a", "2", 1), ("a", "34", 11), ("a", "5", 21), ("a", "6", 60), ("a", "7", 61), ("a", "8.", 63)]
    assert found.woken == 5, "For 1, 2, 6, 7 and the end."


def test_an_event_loop_looks_for_all_its_deliveries_at_once() -> None:
    async def steps(of: Paced) -> None:
        for time in range(100):
            await of.emit(time, "x", "a", "b")

    found = paced(10.0, steps)
    assert found.timers == [*range(11, 101, 10), 101]
    assert [name for name, _, _ in found.found] == ["a", "b"] * 11
    assert found.woken == 4


def test_slow_pieces_set_no_timer() -> None:
    """Each is then as late as the engine's step, and the event loop is woken once for it."""

    async def steps(of: Paced) -> None:
        for time in range(0, 100, 10):
            await of.emit(time, "x")

    found = paced(10.0, steps)
    assert found.timers == []
    assert [time for _, _, time in found.found] == list(range(0, 100, 10))


def test_nothing_comes_between_the_first_piece_and_the_end_where_nobody_wants_it() -> None:
    async def steps(of: Paced) -> None:
        for time in range(50):
            await of.emit(time, "x")
        of.tickets["a"].finish("over")
        await of.at(50)

    found = paced(math.inf, steps)
    assert found.found == [("a", "x", 0), ("a", "x", 1), ("a", 48 * "x" + ".", 50)]
    assert (found.woken, found.timers) == (3, [])


def test_a_delivery_that_was_given_up_is_not_looked_at_again() -> None:
    async def steps(of: Paced) -> None:
        for time in range(3):
            await of.emit(time, "x")
        await of.end()
        await of.emit(50, "x")
        await of.at(100)

    found = paced(10.0, steps)
    assert [time for _, _, time in found.found] == [0, 1]
    assert found.timers == [11]


def test_a_look_that_raises_takes_no_other_with_it() -> None:
    """As what cancels a task does, which no delivery keeps for itself."""
    seen: list[str] = []

    def look(name: str) -> bool:
        seen.append(name)
        if name == "b":
            raise asyncio.CancelledError
        return seen.count(name) < 3

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        rounds = several._Rounds(loop, 1e-4)
        for name in "abc":
            rounds.join(partial(look, name))
        async with asyncio.timeout(SECONDS):
            while seen.count("c") < 3:
                await asyncio.sleep(0.001)

    asyncio.run(main())
    assert (seen.count("a"), seen.count("b"), seen.count("c")) == (3, 1, 3)


def test_the_pieces_of_an_answer_become_one() -> None:
    """Those of each answer in their order, with all their tokens, but not those with log probabilities; the ends come after them."""
    first, second = (TokenLogprob(token=token, text=text, logprob=-1.0) for token, text in ((1, "a"), (2, "b")))
    batch: list[Arrival] = [
        (1, Piece("a", (1,))),
        (0, Piece("x", (7, 8))),
        (0, None),
        (3, Piece("a", (1,), (first,))),
        (1, Piece("b", (2, 3))),
        (3, Piece("b", (2,), (second,))),
        (2, None),
        (1, None),
    ]
    assert joined(batch) == [
        (1, Piece("ab", (1, 2, 3))),
        (0, Piece("x", (7, 8))),
        (0, None),
        (3, Piece("a", (1,), (first,))),
        (3, Piece("b", (2,), (second,))),
        (2, None),
        (1, None),
    ]

"""The pieces of several answers, as they come."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from llmasos_engine.several import Arrival, Delivery, abatches_of, pieces_of
from llmasos_engine.ticket import Piece, Ticket

SECONDS = 20.0


def read_at_once(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    return list(pieces_of(tickets))


def read_on_an_event_loop(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    async def read() -> list[tuple[int, Piece | None]]:
        return [arrival async for batch in abatches_of(tickets) for arrival in batch]

    return asyncio.run(asyncio.wait_for(read(), SECONDS))


def have_delivered(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    found: list[Arrival] = []

    async def main() -> None:
        await asyncio.wait_for(Delivery(tickets, found.extend).run(), SECONDS)

    asyncio.run(main())
    return found


def have_delivered_to_a_slow_reader(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
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
        await asyncio.wait_for(Delivery(tickets, receive).run(), SECONDS)

    asyncio.run(main())
    return found


@pytest.mark.parametrize("read", [read_at_once, read_on_an_event_loop, have_delivered, have_delivered_to_a_slow_reader])
def test_each_answer_comes_in_order_and_ends_once(read: Callable[[Sequence[Ticket[Any]]], list[tuple[int, Piece | None]]]) -> None:
    """Of an answer that has ended before it is read, and of two that another thread gives."""
    cancelled: list[str] = []
    tickets: list[Ticket[str]] = [Ticket(name, partial(cancelled.append, name)) for name in "abc"]
    tickets[0].emit("x")
    tickets[0].finish("x")

    def answer() -> None:
        for number in range(50):
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
    numbers = [f"{number} " for number in range(50)]
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

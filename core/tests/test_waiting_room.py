"""Calls that wait, for event loops: bounded, off the loop's executor, and given up with the task that awaits them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from llmasos.compose.waiting_room import WaitingRoom
from llmasos_hookspecs import Rejected, RequestError


def kept(found: list[int]) -> Callable[[int], None]:
    return found.append


def test_it_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    room = WaitingRoom(1)

    async def main() -> None:
        assert await room.call(lambda: 7, kept([])) == 7
        with pytest.raises(RequestError, match="seven"):
            await room.call(lambda: (_ for _ in ()).throw(RequestError("No seven.")), kept([]))
        with pytest.raises(ZeroDivisionError):
            await room.call(lambda: 1 // 0, kept([]))
        assert room.taken == 0

    asyncio.run(main())


def test_calls_that_wait_take_no_thread_of_the_executor_and_more_than_the_seats_are_refused() -> None:
    room, gate = WaitingRoom(40), threading.Event()

    async def main() -> None:
        waiting = [asyncio.create_task(room.call(gate.wait, kept([]))) for _ in range(40)]
        while room.taken < 40:
            await asyncio.sleep(0)
        with pytest.raises(Rejected, match="max_waiting") as refused:
            await room.call(gate.wait, kept([]))
        assert refused.value.retry_after
        assert await asyncio.to_thread(lambda: "free") == "free"
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * 40
        assert room.taken == 0
        assert await room.call(lambda: 1, kept([])) == 1

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_call_that_is_cancelled_gives_its_result_up_once() -> None:
    """While the function runs, between its result and the task that awaits it, and where the event loop has been closed."""
    room, given_up = WaitingRoom(2), []

    async def cancelled(gate: threading.Event, *, late: bool) -> None:
        task = asyncio.create_task(room.call(lambda: (gate.wait(), 5)[1], kept(given_up)))
        await asyncio.sleep(0.01)
        if late:
            gate.set()
            while room.taken:
                pass  # the loop is not given back: the result waits for it, and the task is cancelled first or after
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        while not given_up:
            await asyncio.sleep(0.001)

    for late in (False, True):
        asyncio.run(asyncio.wait_for(cancelled(threading.Event(), late=late), 120))
        assert given_up == [5]
        given_up.clear()

    gate, told = threading.Event(), threading.Event()

    async def left() -> None:
        task = asyncio.create_task(room.call(lambda: (gate.wait(), 6)[1], lambda _: told.set()))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(left())
    gate.set()
    assert told.wait(120)
    assert room.taken == 0

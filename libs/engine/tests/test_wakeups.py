"""Event loops that wait for a model are woken once a step, and also where the step hangs in a plugin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmasos_engine.ticket import Ticket
from llmasos_engine.wakeups import Wakeups

SECONDS = 20.0


@pytest.mark.parametrize("way", ["pieces", "apieces", "listen", "result", "aresult"])
def test_a_ticket_says_whether_its_pieces_are_asked_for(way: str) -> None:
    ticket: Ticket[str] = Ticket("1", lambda: None)
    ticket.emit("a")
    ticket.finish("a")
    assert not ticket.followed

    async def read() -> list[str]:
        return [piece.text async for piece in ticket.apieces()]

    texts: list[str] = []
    match way:
        case "pieces":
            texts.extend(piece.text for piece in ticket.pieces())
        case "apieces":
            texts.extend(asyncio.run(read()))
        case "listen":
            ticket.listen(lambda piece: texts.append(piece.text))
        case "result":
            texts.append(ticket.result(SECONDS))
        case "aresult":
            texts.append(asyncio.run(ticket.aresult()))
    assert texts == ["a"]
    assert ticket.followed == (way in {"pieces", "apieces", "listen"})


def test_an_event_loop_is_woken_once_a_step_for_all_its_streams(
    make_loop: Any, hash_engine: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight streams and eight whole answers on one event loop: as many calls as steps, where each would have cost one of its own."""
    engine = hash_engine(max_sequences=16)
    loop = make_loop(engine, max_sequences=16)
    posts = 0

    async def main() -> None:
        event_loop = asyncio.get_running_loop()
        post = event_loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal posts
            posts += threading.current_thread() is loop._thread
            return post(*arguments, **options)

        monkeypatch.setattr(event_loop, "call_soon_threadsafe", counted)

        async def text(ticket: Ticket[Any], *, streamed: bool) -> str:
            return "".join([piece async for piece in ticket]) if streamed else (await ticket.aresult()).text

        tickets = [loop.submit(request_of([place, 5], 40, ignore_eos=True)) for place in range(16)]
        texts = await asyncio.gather(*(text(ticket, streamed=place < 8) for place, ticket in enumerate(tickets)))
        assert texts == [ticket.result().text for ticket in tickets]

    asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert 0 < posts <= len(engine.steps)


def test_two_event_loops_are_each_woken(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    loop = make_loop(hash_engine())
    right: list[bool] = []

    def read(first: int) -> None:
        async def main() -> None:
            ticket = loop.submit(request_of([first], 30, ignore_eos=True))
            right.append("".join([piece async for piece in ticket]) == ticket.result().text)

        asyncio.run(main())

    readers = [threading.Thread(target=read, args=(place,), daemon=True) for place in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(SECONDS)
    assert right == [True] * 4


def test_readers_hear_of_a_step_that_hangs_before_it_is_delivered(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """The engine does not return from closing the slot of an answer that ends: the piece before that arrives all the same."""
    waiting, closing = threading.Event(), threading.Event()

    class Stuck(hash_engine):
        def step(self, rows: Any) -> Any:
            assert not self.steps or waiting.wait(SECONDS)
            return super().step(rows)

        def close(self, slot: int) -> None:
            assert closing.wait(SECONDS)
            super().close(slot)

    loop = make_loop(Stuck(), keep_prefixes=False)

    async def main() -> int:
        pieces = loop.submit(request_of([5], 2, ignore_eos=True)).apieces()
        await anext(pieces)
        asyncio.get_running_loop().call_later(0.05, waiting.set)  # once this task waits for the second piece
        await anext(pieces)
        closing.set()
        return len([piece async for piece in pieces])

    try:
        assert asyncio.run(asyncio.wait_for(main(), SECONDS / 4)) == 0
    finally:
        waiting.set()
        closing.set()


def test_a_closed_event_loop_and_a_reader_that_left_disturb_nobody(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    loop = make_loop(hash_engine())
    ticket = loop.submit(request_of([5], 30, ignore_eos=True))

    async def leave() -> None:
        task = asyncio.create_task(ticket.aresult())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    assert loop.submit(request_of([7], 5, ignore_eos=True)).result(SECONDS).text


def test_only_the_thread_that_delivers_collects() -> None:
    """What another thread posts meanwhile is posted at once; what was collected can be posted by any thread, and is posted once."""
    wakeups, woken = Wakeups(), []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def in_thread(call: Callable[[], Any]) -> None:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(SECONDS)

        async def turn() -> Sequence[str]:
            await asyncio.sleep(0.01)
            return list(woken)

        with wakeups:
            wakeups.post(loop, lambda: woken.append("collected"))
            in_thread(lambda: wakeups.post(loop, lambda: woken.append("other")))
            assert await turn() == ["other"]
            in_thread(wakeups.flush)
            assert await turn() == ["other", "collected"]
            wakeups.post(loop, lambda: woken.append("last"))
            assert await turn() == ["other", "collected"]
        assert await turn() == ["other", "collected", "last"]

    asyncio.run(main())


def test_threads_that_deliver_at_once_collect_each_its_own() -> None:
    """As the threads of replicas do; one that ends posts nothing of another's."""
    wakeups, woken = Wakeups(), list[str]()
    collected, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def deliver() -> None:
            with wakeups:
                wakeups.post(loop, lambda: woken.append("theirs"))
                collected.set()
                assert go_on.wait(SECONDS)

        thread = threading.Thread(target=deliver)
        thread.start()
        assert collected.wait(SECONDS)
        with wakeups:
            wakeups.post(loop, lambda: woken.append("ours"))
        await asyncio.sleep(0.01)
        assert woken == ["ours"]
        go_on.set()
        thread.join(SECONDS)
        await asyncio.sleep(0.01)
        assert woken == ["ours", "theirs"]

    asyncio.run(main())

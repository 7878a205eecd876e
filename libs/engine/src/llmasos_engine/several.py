"""The pieces of several answers as they come."""

from __future__ import annotations

import functools
import queue
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from llmasos_engine.ticket import Piece, Ticket
from llmasos_hookspecs.guarding.changes import take

#: The place of an answer, and a piece of it; None once it has ended, with a result or an error.
Arrival = tuple[int, Piece | None]


def pieces_of(tickets: Sequence[Ticket[Any]]) -> Generator[Arrival, None, None]:
    """The pieces of all tickets until all have ended. Leaving the iteration early cancels them. A ticket has one such reader."""
    arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
    try:
        for place, ticket in enumerate(tickets):
            ticket.listen(functools.partial(_put, arrived, place))
            ticket.add_done_callback(functools.partial(_put, arrived, place, None))
        left = len(tickets)
        while left:
            place, piece = take(arrived)
            left -= piece is None
            yield place, piece
    finally:
        for ticket in tickets:
            ticket.cancel()


async def abatches_of(tickets: Sequence[Ticket[Any]]) -> AsyncGenerator[Sequence[Arrival], None]:
    """``pieces_of`` for an event loop, which is woken once for each step of the engine, and gets together what is there then.

    Other tasks of the event loop have their turn before each batch, also where the engine is faster than its reader.
    """
    import asyncio  # takes 40 ms, which only who awaits pays

    loop = asyncio.get_running_loop()
    arrived: list[Arrival] = []
    waiting: asyncio.Future[None] | None = None

    def wake() -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def arrive(ticket: Ticket[Any], place: int, piece: Piece | None) -> None:
        arrived.append((place, piece))
        ticket.post(loop, wake)

    try:
        for place, ticket in enumerate(tickets):
            ticket.listen(functools.partial(arrive, ticket, place))
            ticket.add_done_callback(functools.partial(arrive, ticket, place, None))
        left = len(tickets)
        while left:
            if arrived:
                await asyncio.sleep(0)
            else:
                waiting = loop.create_future()
                if not arrived:  # else a piece came meanwhile, and its call found nobody who waits
                    await waiting
            batch = arrived[:]
            del arrived[: len(batch)]  # the engine's thread may have appended to it in between
            left -= sum(piece is None for _, piece in batch)
            if batch:
                yield batch
    finally:
        for ticket in tickets:
            ticket.cancel()


def _put(arrived: queue.SimpleQueue[Arrival], place: int, piece: Piece | None) -> None:
    arrived.put((place, piece))

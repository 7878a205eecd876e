"""The pieces of several answers as they come."""

from __future__ import annotations

import asyncio
import functools
import queue
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from llmasos.engine.ticket import Piece, Ticket
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


async def apieces_of(tickets: Sequence[Ticket[Any]]) -> AsyncGenerator[Arrival, None]:
    """``pieces_of`` for an event loop, which is woken once for each step of the engine."""
    loop = asyncio.get_running_loop()
    arrived: deque[Arrival] = deque()
    there = asyncio.Event()

    def arrive(ticket: Ticket[Any], place: int, piece: Piece | None) -> None:
        arrived.append((place, piece))
        ticket.post(loop, there.set)

    try:
        for place, ticket in enumerate(tickets):
            ticket.listen(functools.partial(arrive, ticket, place))
            ticket.add_done_callback(functools.partial(arrive, ticket, place, None))
        left = len(tickets)
        while left:
            while not arrived:
                there.clear()
                if not arrived:  # else a piece came before the event was cleared
                    await there.wait()
            place, piece = arrived.popleft()
            left -= piece is None
            yield place, piece
    finally:
        for ticket in tickets:
            ticket.cancel()


def _put(arrived: queue.SimpleQueue[Arrival], place: int, piece: Piece | None) -> None:
    arrived.put((place, piece))

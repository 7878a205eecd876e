"""The pieces of several answers as they come."""

from __future__ import annotations

import functools
import queue
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from llmasos_engine.ticket import Piece, Ticket
from llmasos_hookspecs.guarding.changes import take

if TYPE_CHECKING:
    import asyncio  # takes 40 ms, which only who awaits pays

#: The place of an answer, and a piece of it; None once it has ended, with a result or an error.
Arrival = tuple[int, Piece | None]
#: Gets what has come; what it returns is awaited before it gets more.
Receive = Callable[[Sequence[Arrival]], Awaitable[None] | None]


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


class Delivery:
    """Gives the pieces of all tickets, as ``abatches_of`` does, to a function that the running event loop calls.

    A token of one of many streams then resumes no coroutine, and needs no future: that took twice what is done with it.
    """

    def __init__(self, tickets: Sequence[Ticket[Any]], receive: Receive) -> None:
        import asyncio

        self._loop: Final = asyncio.get_running_loop()
        self._tickets: Final = tickets
        self._receive: Final = receive
        self._arrived: list[Arrival] = []
        self._left = len(tickets)
        self._halted = self._new_halt()

    async def run(self) -> None:
        """Return once all tickets have ended, or after ``stop``. What the function raises is raised here. Where this ends early, the
        tickets are cancelled."""
        try:
            for place, ticket in enumerate(self._tickets):
                ticket.listen(functools.partial(self._arrive, ticket, place))
                ticket.add_done_callback(functools.partial(self._arrive, ticket, place, None))
            self._give()
            while (rest := await self._halted) is not None:
                await rest
                self._halted = self._new_halt()
                self._give()
        finally:
            for ticket in self._tickets:
                ticket.cancel()

    def stop(self) -> None:
        """Give nothing more; to be called by the function."""
        self._left = 0

    def _new_halt(self) -> asyncio.Future[Awaitable[None] | None]:
        """What is to be awaited before more is given; None at the end."""
        return self._loop.create_future()

    def _arrive(self, ticket: Ticket[Any], place: int, piece: Piece | None) -> None:
        self._arrived.append((place, piece))
        ticket.post(self._loop, self._give)

    def _give(self) -> None:
        halted = self._halted
        if halted.done():  # also because its task was cancelled
            return
        rest = None
        if self._left and (batch := self._arrived[:]):
            del self._arrived[: len(batch)]  # the engine's thread may have appended to it in between
            for _, piece in batch:
                if piece is None:
                    self._left -= 1
            try:
                rest = self._receive(batch)
            except Exception as error:
                halted.set_exception(error)
                return
        if rest is not None or not self._left:
            halted.set_result(rest)


def _put(arrived: queue.SimpleQueue[Arrival], place: int, piece: Piece | None) -> None:
    arrived.put((place, piece))

"""The pieces of several answers as they come."""

from __future__ import annotations

import functools
import math
import queue
import time
import weakref
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

    A token of one of many streams then resumes no coroutine, and needs no future: that took twice what is done with it. Where pieces come
    sooner than ``every`` seconds after those before, the engine wakes nobody: the event loop looks for them itself, for all its deliveries
    at once.
    """

    def __init__(self, tickets: Sequence[Ticket[Any]], receive: Receive, every: float = 0.0) -> None:
        """``every``: seconds between two batches at least; the first pieces, those after as long a silence, and the end of a ticket come at
        once. 0: each step of the engine is a batch; ``math.inf``: nothing comes between the first pieces and an end."""
        import asyncio

        self._loop: Final = asyncio.get_running_loop()
        self._tickets: Final = tickets
        self._receive: Final = receive
        self._every: Final = every
        self._arrived: list[Arrival] = []
        self._left = len(tickets)
        self._given = -math.inf  # when, by ``time.monotonic``
        self._looks = False  # the event loop does, so that nobody is to be woken
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
            self.stop()
            for ticket in self._tickets:
                ticket.cancel()

    def stop(self) -> None:
        """Give nothing more; to be called by the function."""
        self._left = 0

    def look(self) -> bool:
        """Give what has come, on the event loop; False: it is not to look again, because there was nothing or it is over."""
        if not self._left:
            return False
        if not self._arrived:
            self._looks = False
            if not self._arrived:  # else a piece came in between, and the engine's thread may have woken nobody
                return False
            self._looks = True
        self._give()
        return True

    def _new_halt(self) -> asyncio.Future[Awaitable[None] | None]:
        """What is to be awaited before more is given; None at the end."""
        return self._loop.create_future()

    def _arrive(self, ticket: Ticket[Any], place: int, piece: Piece | None) -> None:
        self._arrived.append((place, piece))
        if piece is None or not self._looks:
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
            if self._every:
                self._keep_pace()
            try:
                rest = self._receive(batch)
            except Exception as error:
                halted.set_exception(error)
                return
        if rest is not None or not self._left:
            halted.set_result(rest)

    def _keep_pace(self) -> None:
        """Have the event loop look for the next pieces, where they come too soon to wake it for each."""
        now = time.monotonic()
        if not self._looks and self._left and now - self._given < self._every:
            self._looks = True
            if self._every < math.inf:
                _rounds_of(self._loop, self._every).join(self.look)
        self._given = now


class _Rounds:
    """Looks for what has come for several deliveries together, so that an event loop wakes up once for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._loop = weakref.ref(loop)
        self._every = every
        self._looks: list[Callable[[], bool]] = []
        self._set = False

    def join(self, look: Callable[[], bool]) -> None:
        """Call ``look`` within ``every`` seconds, and again until it returns False."""
        self._looks.append(look)
        self._set_out()

    def _set_out(self) -> None:
        loop = self._loop()
        if self._looks and not self._set and loop is not None:
            self._set = True
            loop.call_later(self._every, self._go)

    def _go(self) -> None:
        self._set = False
        looks, self._looks = iter(self._looks), []
        try:
            for look in looks:
                if look():
                    self._looks.append(look)
        finally:
            self._looks += looks  # of those after one that raised
            self._set_out()


_rounds: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, _Rounds]] = weakref.WeakKeyDictionary()


def _rounds_of(loop: asyncio.AbstractEventLoop, every: float) -> _Rounds:
    """The rounds of an event loop, one for all deliveries of the same pace."""
    found = _rounds.setdefault(loop, {})
    if every not in found:
        found[every] = _Rounds(loop, every)
    return found[every]


def joined(batch: Sequence[Arrival]) -> list[Arrival]:
    """What has come with the pieces of each answer as one, and then the ends. Pieces with log probabilities stay apart: who reads those
    wants to know which tokens make which characters."""
    pieces: dict[int, list[Piece]] = {}
    apart: list[Arrival] = []
    for place, piece in batch:
        if piece is None or piece.logprobs:
            apart.append((place, piece))
        else:
            pieces.setdefault(place, []).append(piece)
    return [*((place, _one(each)) for place, each in pieces.items()), *apart]


def _one(pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return Piece("".join([piece.text for piece in pieces]), tuple([token for piece in pieces for token in piece.tokens]))


def _put(arrived: queue.SimpleQueue[Arrival], place: int, piece: Piece | None) -> None:
    arrived.put((place, piece))

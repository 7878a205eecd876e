"""Requests of event loops on their way to a model: what they wait for takes no thread, and one that is given up holds nothing."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import attrs

from llmasos.compose.serving import Sending, Wanted, waited
from llmasos_hookspecs import Cancelled, Rejected
from llmasos_plugin_calls.workers import Workers
from llmasos_residency.handover import Handover
from llmasos_residency.lease import Lease
from llmasos_residency.residency import Residency

R = TypeVar("R")

#: Seconds after which a client may come again that was not let in.
_RETRY: Final = 1.0
#: Threads that prepare requests: they ask access control and guards, encode prompts and compile constraints.
_WORKERS: Final = 16


class WaitingRoom:
    """Sends requests for event loops, as many at once as there are seats."""

    def __init__(self, seats: int | None, residency: Residency) -> None:
        """``seats``: None: any number. ``residency``: gives the leases that the requests wait for."""
        self._seats = seats
        self._residency = residency
        self._workers = Workers(_WORKERS, "llmasos-admission")
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Requests that are not sent yet."""
        return self._taken

    async def send(
        self, sending: Callable[[], Sending[R]], give_up: Callable[[R], object], unsent: Callable[[], object] = lambda: None
    ) -> R:
        """What the steps that ``sending`` makes return; they are done on threads.

        Where the awaiting task is cancelled, the request leaves at once, whatever it waits for, and its steps get ``Cancelled``; where it
        was sent already, ``give_up`` gets what they returned. ``unsent`` is called once a request that is not sent holds nothing any more,
        refused ones included.

        Raises:
            Rejected: as many requests are on their way as may be.
        """
        visit = _Visit(sending, give_up, unsent, self._residency)
        try:
            with self._seat():
                outcome = await self._advance(visit, None)
                while isinstance(outcome, Wanted):
                    lease = await self._residency.acquire_async(outcome.model, outcome.tokens)
                    outcome = await self._advance(visit, lease)
        except BaseException as error:
            visit.leave(error)
            raise
        return outcome.result

    def send_waiting(self, sending: Sending[R]) -> R:
        """``send`` for a thread, which waits; it takes no seat."""
        return waited(sending, self._residency)

    def close(self) -> None:
        """End the threads once nothing is on its way."""
        self._workers.close()

    async def _advance(self, visit: _Visit[R], lease: Lease | None) -> Wanted | _Sent[R]:
        handover: Handover[Wanted | _Sent[R]] = Handover(visit.unwanted)
        try:
            self._workers.do(lambda: visit.advance(lease, handover))
        except RuntimeError:
            if lease is not None:
                lease.release()
            raise Rejected("This machine has no thread left for the request; send it again later.", _RETRY) from None
        return await handover.take()

    @contextlib.contextmanager
    def _seat(self) -> Iterator[None]:
        with self._lock:
            if self._seats is not None and self._taken >= self._seats:
                raise Rejected(
                    f"{self._taken} requests wait for a model or for memory, and no more may (resources.max_waiting); send it again later.",
                    _RETRY,
                )
            self._taken += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken -= 1


@attrs.frozen
class _Sent(Generic[R]):
    """A request was sent."""

    result: R


class _Visit(Generic[R]):
    """One request on its way. Its steps run on threads, one at a time; its event loop may end it at any moment."""

    def __init__(
        self, sending: Callable[[], Sending[R]], give_up: Callable[[R], object], unsent: Callable[[], object], residency: Residency
    ) -> None:
        self._make = sending
        self._give_up = give_up
        self._unsent = unsent
        self._residency = residency
        self._lock = threading.Lock()
        self._steps: Sending[R] | None = None
        self._working = self._sent = False
        self._left: BaseException | None = None

    def advance(self, lease: Lease | None, handover: Handover[Wanted | _Sent[R]]) -> None:
        """Go on with ``lease``, until the request is sent or must wait for another."""
        with self._lock:
            if self._left is not None:
                if lease is not None:
                    lease.release()
                return
            self._working = True
        try:
            outcome = self._go_on(lease)
        except BaseException as error:
            self._rest()
            handover.fail(error)
        else:
            self._rest()
            handover.succeed(outcome)

    def leave(self, error: BaseException) -> None:
        """The request is given up, because of ``error``: at once where it waits, else when its present step has ended."""
        with self._lock:
            self._left = error
            if self._working:
                return
        self._end()

    def unwanted(self, outcome: Wanted | _Sent[R]) -> None:
        """Nobody waits for what a step came to."""
        if isinstance(outcome, _Sent):
            self._give_up(outcome.result)

    def _go_on(self, lease: Lease | None) -> Wanted | _Sent[R]:
        try:
            if self._steps is None:
                self._steps = self._make()
                wanted = next(self._steps)
            else:
                assert lease is not None
                wanted = self._steps.send(lease)
            while (lease := self._residency.acquire_now(wanted.model, wanted.tokens)) is not None:
                wanted = self._steps.send(lease)
        except StopIteration as end:
            self._sent = True
            return _Sent(end.value)
        return wanted

    def _rest(self) -> None:
        with self._lock:
            self._working = False
            left = self._left is not None
        if left:
            self._end()

    def _end(self) -> None:
        """Let the steps undo what they hold, where they have not ended."""
        if self._sent:
            return
        if self._steps is not None and inspect.getgeneratorstate(self._steps) != inspect.GEN_CLOSED:
            error = self._left
            told = error if isinstance(error, Exception) else Cancelled("The request was given up while it waited.")
            with contextlib.suppress(BaseException):
                self._steps.throw(told)
        self._unsent()

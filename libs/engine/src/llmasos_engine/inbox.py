"""What crosses from callers' threads to the loop's: actions in one direction, the ends of tickets in the other."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from llmasos_engine.exiting import left_behind
from llmasos_engine.ticket import Ticket
from llmasos_engine.wakeups import Wakeups
from llmasos_hookspecs import LLMasOSError, ModelClosed, Request
from llmasos_hookspecs.guarding.changes import Changes


@attrs.frozen
class Message:
    """An action for the loop's thread, the requests that it queues, and the tickets that fail where the action raises."""

    action: Callable[[], object]
    requests: tuple[Request, ...]
    tickets: tuple[Ticket[Any], ...]


class Inbox:
    """The messages of one loop, and the tickets that it must end. All methods are thread-safe.

    Attributes:
        closing: the loop was asked to end; nothing more is accepted.
        closed: why the loop has ended; None while it has not.
        messages: what the loop has not taken in; to others, whether there is any.
        wakeups: of the event loops that wait for its tickets.
        first_deadline: the earliest of the tickets', or one that is earlier still.
    """

    def __init__(self, model: str, sooner: Callable[[], object] = lambda: None) -> None:
        """``sooner``: called where a ticket comes whose deadline is earlier than all others."""
        self.closing = False
        self.closed: LLMasOSError | None = None
        self.wakeups: Final = Wakeups()
        self._model = model
        self.messages: Final[deque[Message]] = deque()
        self._tickets: weakref.WeakSet[Ticket[Any]] = weakref.WeakSet()
        self.first_deadline = math.inf
        self._sooner = sooner
        self._changes = Changes()

    def send(self, action: Callable[[], object], requests: Sequence[Request] = (), tickets: Sequence[Ticket[Any]] = ()) -> None:
        """Have the loop's thread call ``action`` before its next step; in most cases it queues ``requests``.

        Raises:
            LLMasOSError: the loop has ended; the error says why.
        """
        with self._changes.lock:
            if self.closed is not None or self.closing:
                error = self.closed or closed_error(self._model)
                raise SystemExit if left_behind(error) else error
            self.messages.append(Message(action, tuple(requests), tuple(tickets)))
            self._changes.tell()

    def keep(self, ticket: Ticket[Any]) -> None:
        """Remember a ticket that someone may wait for."""
        with self._changes.lock:
            self._tickets.add(ticket)
            deadline = math.inf if ticket.deadline is None else ticket.deadline
            if sooner := deadline < self.first_deadline:
                self.first_deadline = deadline
        if sooner:
            self._sooner()

    def overdue(self, now: float) -> list[Ticket[Any]]:
        """The unfinished tickets whose deadline has passed. The watchdog asks several times a second, so tickets are looked through only
        where one may be among them."""
        with self._changes.lock:
            if now < self.first_deadline:
                return []
            waiting = [(ticket, ticket.deadline) for ticket in self.unfinished() if ticket.deadline is not None]
            self.first_deadline = min((deadline for _, deadline in waiting), default=math.inf)
            return [ticket for ticket, deadline in waiting if deadline <= now]

    def unfinished(self) -> list[Ticket[Any]]:
        """The tickets that have not ended."""
        with self._changes.lock:
            return [ticket for ticket in self._tickets if not ticket.done]

    def arriving(self) -> list[Request]:
        """The requests that the loop has not taken in yet."""
        with self._changes.lock:
            return [request for message in self.messages for request in message.requests]

    def next(self) -> Message | None:
        """The first message, which is removed; None where there is none."""
        with self._changes.lock:
            return self.messages.popleft() if self.messages else None

    def wait(self, seconds: float | None) -> bool:
        """Wait for a message, or to be asked to end; False where neither comes within ``seconds``."""
        return self._changes.wait_for(lambda: bool(self.messages) or self.closing, seconds, struck=False)

    def ask_to_end(self) -> None:
        """Accept nothing more, and wake the loop."""
        with self._changes.lock:
            self.closing = True
            self._changes.tell()

    def end(self, reason: LLMasOSError, *, discard: bool = False) -> None:
        """The loop has ended; an earlier reason stays. ``discard``: its messages will not be taken in either."""
        with self._changes.lock:
            self.closed = self.closed or reason
            if discard:
                self.messages.clear()

    def after_fork(self, error: LLMasOSError) -> None:
        """In a forked child: a lock that the loop's thread held is never released, and it ends no ticket."""
        self._changes = Changes()
        self.closed = error
        self.messages.clear()
        for ticket in list(self._tickets):
            ticket.after_fork(error)


def closed_error(model: str) -> ModelClosed:
    """The error of requests to a model that was closed."""
    return ModelClosed(f"The model {model} is closed; load it again to use it.")

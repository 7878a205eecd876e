"""The inbox of a loop: messages in order, who still waits, and what is said to who comes too late."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from llmasos_engine.inbox import Inbox, closed_error
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EngineFailed, ModelClosed

CLOSED = "The model tiny is closed; load it again to use it."


def ticket_of(name: str) -> Ticket[str]:
    return Ticket(name, lambda: None)


def test_messages_come_in_order_with_their_requests_and_tickets(request_of: Any) -> None:
    inbox, ticket, done = Inbox("tiny"), ticket_of("a"), list[int]()
    requests = [request_of([1], id="a"), request_of([2], id="b")]
    assert (inbox.closing, inbox.closed, inbox.next(), inbox.arriving()) == (False, None, None, [])
    inbox.send(lambda: done.append(1), requests, [ticket])
    inbox.send(lambda: done.append(2))
    assert inbox.wait(0.0)
    assert inbox.arriving() == requests
    for number, of_message, tickets in ((1, tuple(requests), (ticket,)), (2, (), ())):
        message = inbox.next()
        assert message is not None
        message.action()
        assert (done[-1], message.requests, message.tickets) == (number, of_message, tickets)
    assert inbox.next() is None
    assert inbox.arriving() == []
    assert not inbox.wait(0.0)


def test_only_what_has_not_ended_is_unfinished_and_nobody_keeps_a_ticket_alive() -> None:
    inbox, kept, ended = Inbox("tiny"), ticket_of("kept"), ticket_of("ended")
    for ticket in (kept, ended, ticket_of("gone")):
        inbox.keep(ticket)
    ended.finish("x")
    del ticket
    gc.collect()
    assert inbox.unfinished() == [kept]


def test_a_deadline_that_is_earlier_than_all_others_is_told_of() -> None:
    """The watchdog may have meant to look later."""
    told: list[float] = []
    inbox = Inbox("tiny", lambda: told.append(inbox.first_deadline))
    tickets = [Ticket[str](str(deadline), lambda: None, deadline) for deadline in (3.0, None, 4.0, 2.0, 2.0)]
    for ticket in tickets:
        inbox.keep(ticket)
    assert told == [3.0, 2.0]


def test_tickets_are_overdue_from_their_deadline_on_in_whatever_order_they_came() -> None:
    """A later ticket with an earlier deadline, one that ended, one without a deadline, and one that is kept once others were overdue."""
    inbox = Inbox("tiny")
    tickets = {name: Ticket[str](name, lambda: None, deadline) for name, deadline in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("none", None))}
    for ticket in tickets.values():
        inbox.keep(ticket)
    assert inbox.overdue(0.9) == []
    assert inbox.overdue(1.0) == [tickets["a"]]
    assert inbox.overdue(1.5) == [tickets["a"]], "It has not ended, so it must be ended still."
    tickets["a"].fail(EngineFailed("late"))
    tickets["b"].finish("x")
    assert inbox.overdue(2.5) == []
    late = Ticket[str]("late", lambda: None, 2.75)
    inbox.keep(late)
    assert inbox.overdue(2.8) == [late]
    assert {ticket.id for ticket in inbox.overdue(3.0)} == {"c", "late"}


def test_a_loop_that_is_asked_to_end_takes_in_what_came_before_and_no_more() -> None:
    inbox = Inbox("tiny")
    inbox.send(lambda: None)
    inbox.ask_to_end()
    assert inbox.closing is True
    with pytest.raises(ModelClosed) as caught:
        inbox.send(lambda: None)
    assert str(caught.value) == str(closed_error("tiny")) == CLOSED
    assert len(inbox.messages) == 1
    inbox.next()
    assert inbox.wait(0.0), "The loop has no message, and must not sleep."


@pytest.mark.parametrize("discard", [False, True])
def test_the_first_reason_of_an_end_stays(discard: bool) -> None:
    """And with ``discard`` no message does."""
    inbox, first = Inbox("tiny"), EngineFailed("It is lost.")
    inbox.send(lambda: None)
    inbox.end(first, discard=discard)
    inbox.end(closed_error("tiny"))
    assert inbox.closed is first
    assert len(inbox.messages) == (0 if discard else 1)
    with pytest.raises(EngineFailed, match=r"^It is lost\.$"):
        inbox.send(lambda: None)
    inbox.ask_to_end()
    with pytest.raises(EngineFailed):
        inbox.send(lambda: None)


def test_a_forked_child_inherits_no_message_and_no_lock() -> None:
    """A thread of the parent may have held the lock; who waits for a ticket in the child is told."""
    inbox, waiting, ended = Inbox("tiny"), ticket_of("waiting"), ticket_of("ended")
    for ticket in (waiting, ended):
        inbox.keep(ticket)
    ended.finish("x")
    inbox.send(lambda: None)
    lock = inbox._changes.lock
    error = ModelClosed("It stayed in the parent.")
    inbox.after_fork(error)
    assert (inbox.closed, list(inbox.messages), inbox._changes.lock is lock) == (error, [], False)
    with pytest.raises(ModelClosed, match=r"^It stayed in the parent\.$"):
        waiting.result(0.0)
    assert ended.result(0.0) == "x"

"""The pieces of several answers, as they come."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from llmasos_engine.several import abatches_of, pieces_of
from llmasos_engine.ticket import Piece, Ticket

SECONDS = 20.0


def read_at_once(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    return list(pieces_of(tickets))


def read_on_an_event_loop(tickets: Sequence[Ticket[Any]]) -> list[tuple[int, Piece | None]]:
    async def read() -> list[tuple[int, Piece | None]]:
        return [arrival async for batch in abatches_of(tickets) for arrival in batch]

    return asyncio.run(asyncio.wait_for(read(), SECONDS))


@pytest.mark.parametrize("read", [read_at_once, read_on_an_event_loop])
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

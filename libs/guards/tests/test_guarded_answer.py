"""Answers on their way through guards: whole or in pieces they are the same, and a guard that stalls keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmasos_engine.ticket import Ticket
from llmasos_engine.wakeups import Wakeups
from llmasos_guards.guarded_answer import GuardedAnswer, Relay
from llmasos_guards.named_guard import NamedGuard
from llmasos_hookspecs import Allow, Block, Blocked, Generation, Passage, PluginError, Replace
from llmasos_plugin_calls.workers import Workers


class Ends:
    """Guards of plain text for the splits below: one replaces across pieces, keeping everything back; one blocks."""

    stages = ("output",)

    def __init__(self, find: str, put: str | None) -> None:
        self.find, self.put = find, put

    def check(self, text: str, passage: Passage) -> Allow | Replace | Block:
        if self.find not in text:
            return Allow()
        return Block("no", text.partition(self.find)[0]) if self.put is None else Replace(text.replace(self.find, self.put))


@given(
    st.text("ab", max_size=12), st.lists(st.integers(1, 4), max_size=6), st.lists(st.sampled_from([("ab", "b"), ("ba", ""), ("bb", None)]))
)
def test_every_split_gives_the_same_answer(text: str, sizes: list[int], rules: list[tuple[str, str | None]]) -> None:
    """However the engine cuts an answer, a chain of guards releases the same text, and blocks at the same place."""
    outcomes, relay = set(), Relay(Workers(8, "llmasos-tested"))
    for cuts in (sizes, [1] * len(text), [len(text) or 1]):
        inner: Ticket[Generation] = Ticket("r", lambda: None)
        place = 0
        for size in [*cuts, len(text) or 1]:
            inner.emit(text[place : place + size])
            place += size
        inner.finish(Generation(text=text, tokens=(1,), finish_reason="stop", prompt_tokens=1))
        guards = [NamedGuard(f"guard {number}", Ends(*rule)) for number, rule in enumerate(rules)]
        outer = GuardedAnswer(guards, inner, Passage(stage="output"), 120.0, relay).outer
        try:
            outcomes.add((outer.result(120).text, "passed"))
        except Blocked as error:
            outcomes.add((error.text, "blocked"))
    assert len(outcomes) == 1


class Slow:
    """A guard whose answers pass; those whose first piece says so hold their thread until the test lets them go."""

    stages, hold = ("output",), 0

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.pushed: list[str] = []

    def check(self, text: str, passage: Passage) -> Allow:
        return Allow()

    def open(self, passage: Passage) -> Slow:
        return self

    def push(self, piece: str) -> str:
        self.pushed.append(piece)
        if piece == "stall":
            self.go_on.wait(60)
        return piece

    def end(self) -> str:
        return ""


def answered(ticket: Ticket[Generation], *pieces: str) -> None:
    for piece in pieces:
        ticket.emit(piece)
    ticket.finish(Generation(text="".join(pieces), tokens=(1,), finish_reason="stop", prompt_tokens=1))


@pytest.fixture
def slow() -> Iterator[Slow]:
    guard = Slow()
    yield guard
    guard.go_on.set()


def test_a_guard_that_stalls_keeps_no_other_answer_waiting(slow: Slow) -> None:
    """Neither those that wait behind it on its thread, nor the readers of those that its thread finished before; its own fails in time."""
    relay, wakeups = Relay(Workers(99, "llmasos-tested")), Wakeups()
    inner: list[Ticket[Generation]] = [Ticket(str(place), lambda: None, None, wakeups) for place in range(6)]
    guards = [NamedGuard("guard", slow)]
    outer = [GuardedAnswer(guards, each, Passage(stage="output"), 0.5, relay).outer for each in inner]

    async def read() -> list[str | type[BaseException]]:
        tasks = [asyncio.ensure_future(each.aresult()) for each in outer]
        await asyncio.sleep(0)
        with wakeups:  # all in one step
            for place, each in enumerate(inner):
                answered(each, "stall" if place in (1, 2, 4) else "on")
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [each.text if isinstance(each, Generation) else type(each) for each in found]

    passed = asyncio.run(asyncio.wait_for(read(), 60))
    assert passed == ["on", PluginError, PluginError, "on", PluginError, "on"]
    again: Ticket[Generation] = Ticket("again", lambda: None)
    last = GuardedAnswer(guards, again, Passage(stage="output"), 60.0, relay).outer
    answered(again, "and on")
    assert last.result(60).text == "and on"


def test_an_answer_that_nobody_follows_is_pushed_in_few_pieces(slow: Slow) -> None:
    """So that guards cost little; one that is read while it is written passes piece by piece."""
    relay = Relay(Workers(9, "llmasos-tested"))
    inner: Ticket[Generation] = Ticket("whole", lambda: None)
    outer = GuardedAnswer([NamedGuard("guard", slow)], inner, Passage(stage="output"), 60.0, relay).outer
    answered(inner, *("a" * 40))
    assert outer.result(60).text == "a" * 40
    assert len(slow.pushed) <= 4
    never_ends: Ticket[Generation] = Ticket("streamed", lambda: None)
    streamed = GuardedAnswer([NamedGuard("guard", slow)], never_ends, Passage(stage="output"), 60.0, relay).outer
    pieces = iter(streamed)
    never_ends.emit("now")
    assert next(pieces) == "now"


def test_a_block_ends_an_answer_that_nobody_follows() -> None:
    """Its request is cancelled while it is written."""
    cancelled = threading.Event()
    inner: Ticket[Generation] = Ticket("blocked", cancelled.set)

    class Blocks(Slow):
        def push(self, piece: str) -> Any:
            return Block("no", "")

    GuardedAnswer([NamedGuard("guard", Blocks())], inner, Passage(stage="output"), 60.0, Relay(Workers(9, "llmasos-tested")))
    for _ in range(20):
        inner.emit("b")
    assert cancelled.wait(60)

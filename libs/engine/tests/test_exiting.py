"""What a thread hears that still asks for a model after the program has ended, and what a thread does that cannot be ended otherwise."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llmasos_engine import exiting
from llmasos_engine.encoder_loop import EncoderLoop
from llmasos_engine.inbox import closed_error
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EncoderInfo, EncoderRow, EngineFailed, ModelClosed
from llmasos_hookspecs.testing.watching import within

SECONDS = 60.0


@pytest.fixture(params=[False, True], ids=["runs", "exits"])
def ending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the program is ending."""
    monkeypatch.setattr(exiting, "_exiting", request.param)
    return bool(request.param)


@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize("error", [closed_error("tiny"), EngineFailed("It is lost.")], ids=["closed", "lost"])
def test_only_a_daemon_that_is_left_behind_ends_silently(ending: bool, daemon: bool, error: Any) -> None:
    """Of a model that closes because the program ends; others get the error, and so does the main thread."""
    ticket: Ticket[str] = Ticket("x", lambda: None)
    ticket.fail(error)
    silent = ending and daemon and isinstance(error, ModelClosed)
    with pytest.raises(SystemExit if silent else type(error)):
        within(SECONDS, ticket.result, daemon=daemon)
    with pytest.raises(type(error)):
        ticket.result()


def test_the_end_of_the_program_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exiting, "_exiting", False)
    exiting.begin_exit()
    ticket: Ticket[str] = Ticket("x", lambda: None)
    ticket.fail(closed_error("tiny"))
    with pytest.raises(SystemExit):
        within(SECONDS, ticket.result)


class Stuck:
    """An encoder whose batch lasts until it is opened."""

    def __init__(self) -> None:
        self.info = EncoderInfo(
            dimensions=2, pooling="mean", context_length=8, max_batch_tokens=8, vocab_size=9, weight_bytes=1, batch_bytes=1
        )
        self.reached, self.open = threading.Event(), threading.Event()

    def encode(self, rows: Any) -> Any:
        self.reached.set()
        assert self.open.wait(SECONDS)
        raise ValueError("planted")

    def shutdown(self) -> None: ...


@pytest.mark.parametrize("kind", ["engine", "encoder"])
@pytest.mark.parametrize("daemon", [False, True])
def test_who_cancels_what_has_ended_with_its_loop_hears_nothing(
    make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any, ending: bool, daemon: bool, kind: str
) -> None:
    """Its ticket is about to hear of the end; to submit another is refused."""
    if kind == "engine":
        gate = make_gate()
        loop = make_loop(hash_engine(fault=gate))
        submit = lambda: loop.submit(request_of([1], 3))  # noqa: E731 - of either kind of loop
    else:
        gate = Stuck()
        loop = EncoderLoop(gate, model="tiny")
        submit = lambda: loop.submit("x", [EncoderRow([1])])  # noqa: E731 - as above
    ticket = submit()
    assert gate.reached.wait(SECONDS)
    loop._inbox.end(closed_error("tiny"))
    assert within(SECONDS, ticket.cancel, daemon=daemon)
    with pytest.raises(SystemExit if ending and daemon else ModelClosed):
        within(SECONDS, submit, daemon=daemon)
    gate.open.set()
    loop.close()

"""Who is shown the calls of a turn, and confirms them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class CallEvent:
    """Something about a call.

    Attributes:
        kind: ``called``: it begins; ``answered``: it has a result; ``failed``: it has none, or was refused.
        id: of the call, the same in all its events.
        tool, arguments: what is called.
        text: the result, or the sentence that the model is told.
        seconds: that it took; 0 where it has only begun.
    """

    kind: Literal["called", "answered", "failed"]
    id: str
    tool: str
    arguments: Mapping[str, Any]
    text: str = ""
    seconds: float = 0.0


def _nothing(event: CallEvent) -> None:
    """What is shown to nobody."""


def _nobody(event: CallEvent) -> None:
    """Nobody is there to ask."""


@attrs.frozen(kw_only=True)
class Listener:
    """Who listens.

    Attributes:
        shown: is called with each event, on the thread of the turn.
        confirm: is called with a call that the policy asks about; True runs it, False refuses it, and None leaves it open: the turn waits
            until it is continued, where its conversation is kept, and else the call is refused.
    """

    shown: Callable[[CallEvent], object] = _nothing
    confirm: Callable[[CallEvent], bool | None] = _nobody


_listener: ContextVar[Listener | None] = ContextVar("llmasos_assist_listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let the turns that are run in the ``with`` block show their calls, and ask about them."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Listener:
    """Who listens here."""
    return _listener.get() or Listener()

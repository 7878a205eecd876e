"""The deadline of the task that runs, which its requests have too, whether it passes one on or not."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("llmasos_deadline", default=math.inf)


@contextlib.contextmanager
def deadline_within(seconds: float) -> Iterator[None]:
    """Let the requests that are sent in the ``with`` block end no later than ``seconds`` from now; an earlier deadline around it stays."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def earliest(own: float | None) -> float | None:
    """The earlier of a request's own deadline and its task's, in ``time.monotonic`` seconds; None: it has neither."""
    found = min(_deadline.get(), math.inf if own is None else own)
    return None if math.isinf(found) else found

"""Faults that tests plant in plugins: what they raise, and at which call."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import attrs

from llmasos_hookspecs import CapacityExceeded, EngineFailed

SECONDS = 120.0  # after which a stalled call returns whatever happens


class TwoArguments(Exception):
    """An error that cannot be made of a text alone."""

    def __init__(self, what: str, why: object) -> None:
        super().__init__(what, why)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("planted"),
    "EngineFailed": lambda: EngineFailed("planted"),
    "CapacityExceeded": lambda: CapacityExceeded("planted"),
    "MemoryError": MemoryError,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "TwoArguments": lambda: TwoArguments("planted", object()),
}


@attrs.define
class Fault:
    """Fails the call of ``method`` that is number ``at``, or every one from there on; counts the calls of all methods.

    Attributes:
        error: what it raises; None: the call stalls until ``released``.
        reached: set at the first call that fails.
    """

    method: str = ""
    at: int = 0
    error: Callable[[], BaseException] | None = None
    for_ever: bool = False
    calls: Counter[str] = attrs.field(factory=Counter)
    reached: threading.Event = attrs.field(factory=threading.Event)
    released: threading.Event = attrs.field(factory=threading.Event)
    _counting: threading.Lock = attrs.field(factory=threading.Lock)

    def strike(self, method: str) -> None:
        """A call of ``method``."""
        with self._counting:
            number = self.calls[method]
            self.calls[method] += 1
        if method != self.method or number < self.at or (number > self.at and not self.for_ever):
            return
        self.reached.set()
        if self.error is None:
            self.released.wait(SECONDS)
        else:
            raise self.error()

"""Failed authentications in the audit log: anybody can cause them, so how many rows they make is bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import attrs

from llmasos_hookspecs import AuditEvent

_MINUTE: Final = 60.0


class FailedAttempts:
    """Which failed authentications are recorded: in each minute the first ones; then, of all together, the 2nd, 4th, 8th ... beyond them,
    with the count so far; and the whole count once the minute is over. So nobody fills the disk, and a flood is seen with its size."""

    def __init__(self, most: int) -> None:
        """``most``: events of a minute that are recorded each."""
        self._most: Final = most
        self._lock = threading.Lock()
        self._until = 0.0
        self._count = 0
        self._told = 0
        self._last: AuditEvent | None = None

    def rows(self, event: AuditEvent) -> Iterator[AuditEvent]:
        """What is to be recorded where ``event`` happens."""
        failed = event.action == "authenticate" and event.outcome == "denied" and not event.principal
        with self._lock:
            found = [*self._summary(event.time), *(self._failed(event) if failed else [event])]
        yield from found

    def _summary(self, now: float) -> Iterator[AuditEvent]:
        """What the minute before left untold."""
        if now < self._until:
            return
        if self._last is not None and self._count > max(self._told, self._most):
            yield self._counted(self._last)
        self._count = self._told = 0
        self._last = None

    def _failed(self, event: AuditEvent) -> Iterator[AuditEvent]:
        if not self._count:
            self._until = event.time + _MINUTE
        self._count += 1
        self._last = event
        beyond = self._count - self._most
        if beyond <= 0:
            yield event
        elif beyond & (beyond - 1) == 0:  # a power of two
            self._told = self._count
            yield self._counted(event)

    def _counted(self, event: AuditEvent) -> AuditEvent:
        """The event, with how many there were in its minute."""
        return attrs.evolve(event, details={**event.details, "attempts_this_minute": self._count})

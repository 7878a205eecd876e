"""First come, first served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from llmasos_hookspecs import Admit, Charge, QueueBounds, Reject, Request, SequenceView, Stats


@attrs.frozen(kw_only=True)
class Options(QueueBounds):
    """The bounds of the queue; the order has no options."""


class Fifo:
    """Ranks by arrival; never names a preemption victim."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        return self._options.check(request, stats)

    def rank(self, sequence: SequenceView, now: float) -> Any:
        return (sequence.request.arrival, sequence.request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        return None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        """Does nothing: ranks do not depend on used tokens."""

"""Priorities with ageing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from llmasos_hookspecs import Admit, Charge, QueueBounds, Reject, Request, SequenceView, Stats


@attrs.frozen(kw_only=True)
class Options(QueueBounds):
    """
    Attributes:
        ageing: seconds of waiting that are worth one level of priority.
        preempt: whether a more urgent request may preempt a running one.
    """

    ageing: float = attrs.field(
        default=30.0, validator=attrs.validators.gt(0), metadata={"help": "Seconds of waiting that are worth one level of priority."}
    )
    preempt: bool = attrs.field(default=True, metadata={"help": "Whether a more urgent request may preempt a running one."})


class PriorityAgeing:
    """Ranks by priority plus time waited.

    All requests age at the same rate, so their relative order never changes: a request that arrived ``ageing`` seconds before another
        outranks it
    unless the other is more than one level more urgent. So a rank is one number that is fixed at arrival, and no request starves.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        return self._options.check(request, stats)

    def rank(self, sequence: SequenceView, now: float) -> Any:
        request = sequence.request
        return (self._urgency(request), request.arrival, request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        """The running sequence with the worst rank, if its priority is at least a whole level below ``needy``'s and ``needy`` outranks
        it."""
        if not self._options.preempt or not running:
            return None
        worst = max(running, key=lambda sequence: self.rank(sequence, now)).request
        better = worst.priority < needy.request.priority and self._urgency(needy.request) < self._urgency(worst)
        return worst.id if better else None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        """Does nothing: ranks do not depend on used tokens."""

    def _urgency(self, request: Request) -> float:
        return request.arrival - request.priority * self._options.ageing

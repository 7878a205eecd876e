"""Shortest expected job first, with a starvation bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from llmasos_hookspecs import Admit, Charge, QueueBounds, Reject, Request, SequenceView, Stats


@attrs.frozen(kw_only=True)
class Options(QueueBounds):
    """
    Attributes:
        bound: seconds; no request is overtaken by one that arrived more than this after it.
        typical: work of an average job, in new tokens.
        prompt_cost: work of a prompt token, in new tokens.
        preempt_ratio: preempt a running job with more than this many times the work left; 0: never.
    """

    bound: float = attrs.field(
        default=60.0, validator=attrs.validators.gt(0), metadata={"help": "Seconds within which a later request may overtake."}
    )
    typical: float = attrs.field(
        default=128.0, validator=attrs.validators.gt(0), metadata={"help": "Work of a job neither short nor long, in new tokens."}
    )
    prompt_cost: float = attrs.field(
        default=0.1, validator=attrs.validators.ge(0), metadata={"help": "Work of a prompt's token, where a new token's is 1."}
    )
    preempt_ratio: float = attrs.field(
        default=8.0, validator=attrs.validators.ge(0), metadata={"help": "Preempt a job with so many times the work left; 0: never."}
    )


class ShortestJob:
    """Ranks by arrival plus a delay that grows with the work left, from 0 to ``bound`` seconds.

    Among requests that arrived within ``bound`` of one another the shorter may run first; a request is never overtaken by one that arrives
    more than ``bound`` seconds later. A rank does not depend on the time, and only improves as the work decreases.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        return self._options.check(request, stats)

    def rank(self, sequence: SequenceView, now: float) -> Any:
        return (self._due(sequence), sequence.request.arrival, sequence.request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        """The running job with the worst rank, if its work left exceeds ``preempt_ratio`` times that of ``needy``."""
        ratio = self._options.preempt_ratio
        if not ratio or not running:
            return None
        longest = max(running, key=lambda sequence: self.rank(sequence, now))
        # Preemption discards the victim's KV cache; recomputing it counts against the waiting job.
        lost = longest.computed * self._options.prompt_cost
        better = self._work(longest) > ratio * (self._work(needy) + lost) and self._due(needy) < self._due(longest)
        return longest.request.id if better else None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        """Does nothing: ranks do not depend on used tokens."""

    def _work(self, sequence: SequenceView) -> float:
        new = sequence.request.max_new_tokens - sequence.generated
        return new + self._options.prompt_cost * max(0, sequence.remaining - new)

    def _due(self, sequence: SequenceView) -> float:
        work = self._work(sequence)
        return sequence.request.arrival + self._options.bound * work / (work + self._options.typical)

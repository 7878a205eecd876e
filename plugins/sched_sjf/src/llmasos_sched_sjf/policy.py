"""Shortest expected job first, with a bound on how long a long one is overtaken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from llmasos_hookspecs import Admit, Charge, QueueBounds, Reject, Request, SequenceView, Stats


@attrs.frozen(kw_only=True)
class Options(QueueBounds):
    """
    Attributes:
        bound: seconds: no request is overtaken by one that came later than this after it.
        typical: tokens of work of a job that is neither short nor long.
        prompt_cost: work of a prompt's token, where a new token's is 1.
        preempt_ratio: take the slot of a running job with this many times the work left; 0: of none.
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

    Among requests that came within ``bound`` of one another the shorter goes first; one that has been there for longer is overtaken by
    nobody new. A rank does not depend on the time, and only gets better as the work gets less.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        return self._options.check(request, stats)

    def rank(self, sequence: SequenceView, now: float) -> Any:
        return (self._due(sequence), sequence.request.arrival, sequence.request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        """The running job with most work left, where it outweighs the newcomer by far."""
        ratio = self._options.preempt_ratio
        if not ratio or not running:
            return None
        longest = max(running, key=lambda sequence: self.rank(sequence, now))
        # What has been computed is lost with the slot, so it counts as work to be done again.
        lost = longest.computed * self._options.prompt_cost
        better = self._work(longest) > ratio * (self._work(needy) + lost) and self._due(needy) < self._due(longest)
        return longest.request.id if better else None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        """Order depends on nothing that was used."""

    def _work(self, sequence: SequenceView) -> float:
        new = sequence.request.max_new_tokens - sequence.generated
        return new + self._options.prompt_cost * max(0, sequence.remaining - new)

    def _due(self, sequence: SequenceView) -> float:
        work = self._work(sequence)
        return sequence.request.arrival + self._options.bound * work / (work + self._options.typical)

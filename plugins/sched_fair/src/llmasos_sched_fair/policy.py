"""Weighted fair sharing, after the Virtual Token Counter (Sheng et al.: Fairness in Serving Large Language Models, 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import attrs

from llmasos_hookspecs import Admit, Charge, QueueBounds, Reject, Request, SequenceView, Stats


@attrs.frozen(kw_only=True)
class Options(QueueBounds):
    """
    Attributes:
        prompt_cost: cost of a prompt token.
        new_cost: cost of a new token.
        preempt_margin: cost by which a tenant must exceed another before one of its running requests is preempted; 0: never.
    """

    prompt_cost: float = attrs.field(default=1.0, validator=attrs.validators.ge(0), metadata={"help": "Cost of a prompt token."})
    new_cost: float = attrs.field(default=2.0, validator=attrs.validators.gt(0), metadata={"help": "What a new token counts."})
    preempt_margin: float = attrs.field(
        default=2048.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Cost by which a tenant must exceed another before a running request of it is preempted; 0: never."},
    )


class FairShare:
    """Counts the token cost of each tenant, divided by its weight, and serves the tenant with the smallest counter.

    The counter of a returning tenant is raised to the smallest counter of the active tenants, so idle tenants accumulate no credit. A
    tenant that leaves with a higher counter keeps it until the others have caught up, so a short absence does not reset it.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._counters: dict[str, float] = {}
        self._active: dict[str, int] = {}
        self._least: list[tuple[float, str]] = []
        self._indebted: list[tuple[float, str]] = []

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        answer = self._options.check(request, stats)
        if isinstance(answer, Admit):
            self._enter(request.tenant)
        return answer

    def rank(self, sequence: SequenceView, now: float) -> Any:
        request = sequence.request
        return (self._counters.get(request.tenant, 0.0), request.arrival, request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        """The newest running request of the tenant with the highest counter, if that exceeds ``needy``'s tenant by the margin."""
        margin = self._options.preempt_margin
        if not margin or not running:
            return None
        worst = max(running, key=lambda sequence: self.rank(sequence, now)).request
        ahead = self._counters.get(worst.tenant, 0.0) - self._counters.get(needy.request.tenant, 0.0)
        return worst.id if ahead > margin and worst.tenant != needy.request.tenant else None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        options = self._options
        for charge in charges:
            tenant = charge.tenant
            if tenant not in self._active:  # admitted under another policy
                self._enter(tenant)
            used = options.prompt_cost * charge.prefill_tokens + options.new_cost * charge.decode_tokens
            self._counters[tenant] += used / max(charge.weight, 1e-9)
            if charge.finished:
                self._leave(tenant)

    def _enter(self, tenant: str) -> None:
        count = self._active.get(tenant, 0)
        if count == 0:
            counter = max(self._counters.get(tenant, 0.0), self._floor())
            self._counters[tenant] = counter
            heappush(self._least, (counter, tenant))
        self._active[tenant] = count + 1

    def _leave(self, tenant: str) -> None:
        self._active[tenant] -= 1
        if self._active[tenant]:
            return
        del self._active[tenant]
        if self._active:
            heappush(self._indebted, (self._counters[tenant], tenant))
            self._forgive()
        else:  # no tenant is active, so all counters can be dropped
            self._counters.clear()
            self._least.clear()
            self._indebted.clear()

    def _floor(self) -> float:
        """The smallest counter of the active tenants; 0 without any. Counters only grow, so an outdated heap entry is corrected when it
        reaches the top."""
        heap = self._least
        while heap:
            counter, tenant = heap[0]
            current = self._counters.get(tenant, 0.0)
            if tenant in self._active and current == counter:
                return counter
            heappop(heap)
            if tenant in self._active:
                heappush(heap, (current, tenant))
        return 0.0

    def _forgive(self) -> None:
        """Drop the counters of inactive tenants that are below the smallest active counter and would be raised on return."""
        floor = self._floor()
        while self._indebted and self._indebted[0][0] <= floor:
            counter, tenant = heappop(self._indebted)
            if tenant not in self._active and self._counters.get(tenant) == counter:
                del self._counters[tenant]

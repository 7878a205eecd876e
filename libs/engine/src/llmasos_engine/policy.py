"""A guard around a scheduling policy: a policy that raises or returns a wrong value cannot lose a request."""

from __future__ import annotations

import logging
from collections import abc
from typing import Any

from llmasos_engine.sequence import Sequence
from llmasos_hookspecs import Admit, Charge, Reject, Request, SchedulingPolicy, Stats
from llmasos_hookspecs.guarding.edge import in_words, interrupted, kind_of

_log = logging.getLogger("llmasos.scheduler")


class GuardedPolicy:
    """Calls a policy with read-only views and catches its errors; the first error of each method is logged.

    Where a call fails, core uses a default: the request is admitted, no sequence is preempted, a prompt takes the whole token budget.
    Once ``rank`` has failed, sequences are ranked by arrival for good, because ranks of the policy and of core cannot be compared.

    Attributes:
        policy: the policy that is guarded.
        by_arrival: ``rank`` has failed, so that sequences are ranked by arrival.
    """

    def __init__(self, policy: SchedulingPolicy, label: str = "") -> None:
        """``label``: names the plugin in messages."""
        self.policy = policy
        self.by_arrival = False
        self._label = f"scheduling policy {self.name}" + (f" ({label})" if label else "")
        self._reported: set[str] = set()

    def __repr__(self) -> str:
        return f"the {self._label}"

    @property
    def name(self) -> str:
        return str(getattr(self.policy, "__name__", type(self.policy).__name__))

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        try:
            answer = self.policy.admit(request, stats)
            if isinstance(answer, Admit | Reject):
                return answer
            self._report("admit", f"it returned {kind_of(answer)} and not Admit or Reject")
        except BaseException as error:
            self._failed("admit", error)
        return Admit()

    def rank(self, sequence: Sequence, now: float) -> Any:
        if not self.by_arrival:
            try:
                return self.policy.rank(sequence.view(), now)
            except BaseException as error:
                self.rank_failed(error)
        return (sequence.request.arrival, sequence.request.id)

    def order(self, sequences: abc.Sequence[Sequence], now: float) -> list[Sequence]:
        """Best first."""
        if len(sequences) < 2:
            return list(sequences)
        try:
            return sorted(sequences, key=lambda sequence: self.rank(sequence, now))
        except BaseException as error:  # ranks that cannot be compared with one another
            self.rank_failed(error)
            return sorted(sequences, key=lambda sequence: self.rank(sequence, now))

    def rank_failed(self, error: BaseException) -> None:
        """Rank by arrival from now on: ``rank`` raised, or two ranks could not be compared. Re-raises the user's Ctrl-C."""
        self.by_arrival = True
        self._failed("rank", error)

    def victim(self, running: abc.Sequence[Sequence], needy: Sequence, now: float) -> Sequence | None:
        try:
            chosen = self.policy.victim(tuple(sequence.view() for sequence in running), needy.view(), now)
            if chosen is not None:
                return next((sequence for sequence in running if sequence.request.id == chosen), None)
        except BaseException as error:
            self._failed("victim", error)
        return None

    def quantum(self, sequence: Sequence, budget: int) -> int:
        try:
            return max(1, min(int(self.policy.quantum(sequence.view(), budget)), budget))
        except BaseException as error:
            self._failed("quantum", error)
            return budget

    def on_commit(self, charges: abc.Sequence[Charge]) -> None:
        try:
            self.policy.on_commit(tuple(charges))
        except BaseException as error:
            self._failed("on_commit", error)

    def _failed(self, method: str, error: BaseException) -> None:
        if interrupted(error):
            raise error
        self._report(method, in_words(error))

    def _report(self, method: str, what: str) -> None:
        if method not in self._reported:
            self._reported.add(method)
            _log.warning("The %s failed in %s (%s); core uses its default instead.", self._label, method, what)

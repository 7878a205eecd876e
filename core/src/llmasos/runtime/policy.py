"""A scheduling policy behind glass: whatever it does, no request is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Many
from typing import Any

from llmasos.runtime.sequence import Sequence
from llmasos.system.edge import in_words, interrupted, kind_of
from llmasos_hookspecs import Admit, Charge, Reject, Request, SchedulingPolicy, Stats

_log = logging.getLogger("llmasos.scheduler")


class GuardedPolicy:
    """Calls a policy with views that it cannot change, and contains its errors, each method's reported once.

    Where a call fails core answers for it: the request is admitted, nobody is a victim, a prompt takes the whole budget. Once ``rank``
    has failed, arrival order takes its place for good, since its ranks and ours could not be compared.
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
        return type(self.policy).__name__

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

    def order(self, sequences: Many[Sequence], now: float) -> list[Sequence]:
        """Best first."""
        if len(sequences) < 2:
            return list(sequences)
        try:
            return sorted(sequences, key=lambda sequence: self.rank(sequence, now))
        except BaseException as error:  # ranks that cannot be compared with one another
            self.rank_failed(error)
            return sorted(sequences, key=lambda sequence: self.rank(sequence, now))

    def rank_failed(self, error: BaseException) -> None:
        """A rank was not to be had, or could not be compared with another. Raises the error again where it is the user's Ctrl-C."""
        self.by_arrival = True
        self._failed("rank", error)

    def victim(self, running: Many[Sequence], needy: Sequence, now: float) -> Sequence | None:
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

    def on_commit(self, charges: Many[Charge]) -> None:
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
            _log.warning("The %s failed in %s (%s); core answers in its place.", self._label, method, what)

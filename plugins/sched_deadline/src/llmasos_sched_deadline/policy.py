"""Earliest deadline first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from llmasos_hookspecs import Admit, Charge, QueueBounds, Reject, Request, SequenceView, Stats, expected_seconds


@attrs.frozen(kw_only=True)
class Options(QueueBounds):
    """
    Attributes:
        patience: seconds from arrival that count as the deadline of a request that has none.
        refuse: whether to reject requests that cannot meet their deadline.
        preempt: whether a request with an earlier deadline may preempt one with a later deadline.
    """

    patience: float = attrs.field(
        default=120.0, validator=attrs.validators.gt(0), metadata={"help": "Seconds from arrival to the deadline of a request without one."}
    )
    refuse: bool = attrs.field(default=True, metadata={"help": "Whether to reject requests that cannot meet their deadline."})
    preempt: bool = attrs.field(default=True, metadata={"help": "Whether an earlier deadline may preempt a later one."})


@attrs.frozen
class _Job:
    """An admitted, unfinished request: the second of its deadline, and its tokens."""

    due: int
    prompt: int
    new: int


class EarliestDeadline:
    """Ranks by deadline. On one machine preemptive EDF meets all deadlines that can be met together (Dertouzos, 1974); a request that
    cannot meet its deadline is rejected.

    The prediction uses the measured rates, the admitted tokens with earlier deadlines, and the average share of ``max_new_tokens`` that
    requests have used so far.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._jobs: dict[str, _Job] = {}
        self._due: dict[int, list[int]] = {}  # second -> prompt and new tokens due in it
        self._generated: dict[str, int] = {}
        self._used = 1.0

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        answer = self._options.check(request, stats)
        if isinstance(answer, Reject):
            return answer
        if self._options.refuse and request.deadline is not None:
            left = request.deadline - stats.now
            needed = self._needed(request, stats)
            if left <= 0 or needed > left:
                return Reject(f"its deadline is in {left:.3g} seconds, and it would take about {needed:.3g} with what is due before it")
        self._promise(request)
        return answer

    def rank(self, sequence: SequenceView, now: float) -> Any:
        request = sequence.request
        return (self._deadline(request), request.arrival, request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        """The running sequence with the latest deadline, if the gap to ``needy``'s deadline exceeds the time left until that deadline. A
        request with a distant deadline waits for a free slot instead."""
        deadline = needy.request.deadline
        if not self._options.preempt or not running or deadline is None:
            return None
        latest = max(running, key=lambda sequence: self.rank(sequence, now)).request
        behind = self._deadline(latest) - deadline
        return latest.id if behind > max(0.0, deadline - now) else None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            job = self._jobs.get(charge.id)
            if job is None:  # admitted under another policy
                continue
            generated = self._generated.get(charge.id, 1) + charge.decode_tokens  # the prefill gives the first token
            self._generated[charge.id] = generated
            if charge.finished:
                del self._jobs[charge.id], self._generated[charge.id]
                self._settle(job)
                self._used += 0.05 * (min(1.0, generated / job.new) - self._used)

    def _deadline(self, request: Request) -> float:
        return request.arrival + self._options.patience if request.deadline is None else request.deadline

    def _needed(self, request: Request, stats: Stats) -> float:
        """Seconds until the request would finish, after all work with earlier deadlines; 0 before the first measurement."""
        deadline = self._deadline(request)
        prompt, new = len(request.tokens), request.max_new_tokens
        for second, (prompts, news) in self._due.items():
            if second < deadline:
                prompt += prompts
                new += news
        return expected_seconds(prompt, new * self._used, stats) or 0.0

    def _promise(self, request: Request) -> None:
        job = _Job(math.floor(self._deadline(request)), len(request.tokens), max(1, request.max_new_tokens))
        self._jobs[request.id] = job
        tokens = self._due.setdefault(job.due, [0, 0])
        tokens[0] += job.prompt
        tokens[1] += job.new

    def _settle(self, job: _Job) -> None:
        tokens = self._due[job.due]
        tokens[0] -= job.prompt
        tokens[1] -= job.new
        if tokens[1] == 0:
            del self._due[job.due]

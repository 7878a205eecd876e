"""What waits in the queue of a replica, as far as its parent knows: what every replica would refuse is not even encoded."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from llmasos_hookspecs import QueueBounds, Stats
from llmasos_replicas.replica import Job

#: Tokens a second, which only the replicas measure. So ``max_wait`` is theirs to check.
_UNKNOWN: Final = 0.0


def waiting_at_least(jobs: Collection[Job], slots: int, bounds: QueueBounds, now: float) -> Stats:
    """The queue of a replica that has a job for each of these unfinished requests, and runs ``slots`` at once.

    Never more than waits there: of those that are not known to have begun, the largest may hold the slots that are free. Tokens are only
    counted where ``bounds`` has a limit of them.
    """
    waiting = max(0, len(jobs) - slots)
    tokens = 0
    if waiting and bounds.max_queue_tokens:
        tokens = sum(sorted(job.tokens // len(job.tickets) for job in jobs if not job.begun)[:waiting])
    return Stats(now=now, waiting=waiting, waiting_tokens=tokens, prefill_rate=_UNKNOWN, decode_rate=_UNKNOWN)

"""Refuses requests early: what a full queue would refuse anyway costs no encoding of its prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmasos_engine.inbox import Inbox
from llmasos_engine.scheduler import Scheduler
from llmasos_hookspecs import QueueBounds, Reject, Rejected, Request, SamplingParams, Stats

#: Of the request that stands for any: bounds do not look at it, and making one takes longer than the rest of a check.
_ANY: Final = SamplingParams()


class QueueCheck:
    """Compares the queue with the bounds of its scheduler, from any thread.

    Attributes:
        bounds: None where the scheduler has none that core knows; it refuses for itself.
    """

    def __init__(self, scheduler: Scheduler, inbox: Inbox, clock: Callable[[], float], bounds: QueueBounds | None) -> None:
        self.bounds = bounds
        self._scheduler: Final = scheduler
        self._inbox: Final = inbox
        self._clock: Final = clock

    def check(self, at_least: Callable[[], int]) -> None:
        """Raise ``Rejected`` where the queue is full for a request of so many tokens, prompt and answer. Only asked where it matters."""
        bounds = self.bounds
        if bounds is None:
            return
        waiting, rates = self._scheduler.waiting, self._scheduler.rates
        arriving = self._inbox.arriving()
        prompts = sum(len(request.tokens) for request in arriving)
        stats = Stats(
            now=self._clock(),
            waiting=len(waiting) + len(arriving),
            waiting_tokens=waiting.tokens + prompts + sum(request.max_new_tokens for request in arriving),
            waiting_prompt_tokens=waiting.prompt_tokens + prompts,
            prefill_rate=rates.prefill,
            decode_rate=rates.decode,
        )
        if (error := refusal(bounds, stats, at_least)) is not None:
            raise error


def refusal(bounds: QueueBounds, stats: Stats, at_least: Callable[[], int]) -> Rejected | None:
    """Why ``bounds`` refuse a request of so many tokens, prompt and answer, where ``stats`` wait; None where they do not. ``at_least`` is
    only asked where it matters."""
    tokens = max(1, at_least()) - 1 if bounds.max_queue_tokens and stats.waiting else 0
    probe = Request(id="", model="", tokens=range(tokens), max_new_tokens=1, arrival=stats.now, sampling=_ANY)
    answer = bounds.check(probe, stats)
    if not isinstance(answer, Reject):
        return None
    return Rejected(f"The request was refused by the scheduler: {answer.reason}", answer.retry_after)

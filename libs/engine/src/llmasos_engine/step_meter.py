"""What an engine's loop tells of while it runs: requests that start, requests that end, and samples of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from llmasos_engine.scheduler import Scheduler
from llmasos_hookspecs import RequestRecord, RequestStarted, StepRecord

#: Seconds between two records of steps.
SAMPLE_SECONDS: Final = 0.5


@attrs.frozen(kw_only=True)
class Listeners:
    """Called on the loop's thread, so they must return quickly; None: nobody listens, and nothing is computed for it."""

    finished: Callable[[RequestRecord], None] | None = None
    started: Callable[[RequestStarted], None] | None = None
    step: Callable[[StepRecord], None] | None = None


#: Nobody listens.
NOBODY: Final = Listeners()


class StepMeter:
    """Adds up steps, and tells of them twice a second."""

    def __init__(self, model: str, tell: Callable[[StepRecord], None]) -> None:
        self._model = model
        self._tell = tell
        self._told = 0.0
        self._preempted = 0
        self._busy = False
        self._clear()

    def add(self, scheduler: Scheduler, prefill: int, decode: int, seconds: float, now: float) -> None:
        """Add a step that ended at ``now``."""
        self._steps += 1
        self._prefill += prefill
        self._decode += decode
        self._seconds += seconds
        if now - self._told >= SAMPLE_SECONDS:
            self.flush(scheduler, now)

    def flush(self, scheduler: Scheduler, now: float) -> None:
        """Tell of the steps since the last record, if there are any; or that the sequences of that record have ended."""
        if not self._steps and not self._busy:
            return
        stats = scheduler.stats()
        self._busy = bool(stats.running or stats.waiting)
        record = StepRecord(
            model=self._model,
            time=now,
            steps=self._steps,
            seconds=self._seconds,
            prefill_tokens=self._prefill,
            decode_tokens=self._decode,
            preemptions=scheduler.preempted - self._preempted,
            running=stats.running,
            waiting=stats.waiting,
            kv_used=stats.kv_used,
            kv_cached=scheduler.cache.prefixes.tokens,
            kv_capacity=stats.kv_capacity,
        )
        self._told, self._preempted = now, scheduler.preempted
        self._clear()
        self._tell(record)

    def _clear(self) -> None:
        self._steps = self._prefill = self._decode = 0
        self._seconds = 0.0

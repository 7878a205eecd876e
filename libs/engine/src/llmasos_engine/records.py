"""What listeners are told of a request: that it has started, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from llmasos_engine.sequence import Sequence
from llmasos_hookspecs import LLMasOSError, RequestRecord, RequestStarted

_log = logging.getLogger("llmasos_engine")

Record = TypeVar("Record", RequestRecord, RequestStarted)


def started_record(sequence: Sequence) -> RequestStarted:
    """Of a request that was computed for the first time."""
    request = sequence.request
    return RequestStarted(
        id=request.id,
        model=request.model,
        tenant=request.tenant,
        priority=request.priority,
        queued=sequence.queued,
        started=sequence.queued if sequence.started is None else sequence.started,
        prompt_tokens=sequence.prompt_length,
        cached_tokens=sequence.cached,
        max_new_tokens=request.max_new_tokens,
    )


def finished_record(sequence: Sequence, now: float, reason: str, error: LLMasOSError | None) -> RequestRecord:
    """Of a request that has ended."""
    request = sequence.request
    return RequestRecord(
        id=request.id,
        model=request.model,
        tenant=request.tenant,
        queued=sequence.queued,
        started=sequence.started,
        first_token=sequence.first_token,
        finished=now,
        prompt_tokens=sequence.prompt_length,
        cached_tokens=sequence.cached,
        generated_tokens=sequence.generated,
        preemptions=sequence.preemptions,
        finish_reason=reason,
        error=None if error is None else str(error),
        cost=sequence.cost,
    )


def tell(listener: Callable[[Record], None], record: Record) -> None:
    """Tell a listener. What it raises is a fault of core, because observers run on threads of their own, and stops no request."""
    try:
        listener(record)
    except Exception:
        _log.warning("The callback for requests failed on %s.", record.id, exc_info=True)

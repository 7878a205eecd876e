"""The record of a finished request, for observers."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class RequestRecord:
    """One request that has ended. Times are seconds of ``time.monotonic``.

    Attributes:
        id, model, tenant: as in the request.
        queued, started, first_token, finished: times; None for an event that never happened.
        prompt_tokens, cached_tokens, generated_tokens: counts.
        preemptions: how often it lost its slot.
        finish_reason: ``stop``, ``length``, ``cancelled``, ``rejected`` or ``error``.
        error: the error's sentence; None where there was none.
        cost: tokens that the engine computed for it, recomputation after preemptions included.
    """

    id: str
    model: str
    tenant: str
    queued: float
    started: float | None = None
    first_token: float | None = None
    finished: float
    prompt_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    finish_reason: str
    error: str | None = None
    cost: int = 0

"""Records of requests, of steps and of guards, for observers."""

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


@attrs.frozen(kw_only=True)
class RequestStarted:
    """A request whose computing begins: it has a slot and was computed in a step for the first time. Times are seconds of
    ``time.monotonic``.

    Attributes:
        id, model, tenant, priority: as in the request.
        queued, started: times.
        prompt_tokens, cached_tokens: of the prompt, and those of them that came from the prefix cache.
        max_new_tokens: tokens that it may generate.
    """

    id: str
    model: str
    tenant: str
    priority: int = 0
    queued: float
    started: float
    prompt_tokens: int
    cached_tokens: int = 0
    max_new_tokens: int


@attrs.frozen(kw_only=True)
class GuardRecord:
    """A guard has changed or blocked a text; never what the text was.

    Attributes:
        guard: its name in config.
        stage: where the text passed (``STAGES``).
        outcome: ``replaced`` or ``blocked``.
        model, tenant: as in the request; ``model`` is empty where no model was meant.
    """

    guard: str
    stage: str
    outcome: str
    model: str = ""
    tenant: str = "default"


@attrs.frozen(kw_only=True)
class StepRecord:
    """The steps of one engine since the record before: sampled a few times a second, and when the engine runs out of work.

    Counts and seconds are sums over these steps, so that the sums over all records lose nothing; the others are of that moment.

    Attributes:
        model: name of the model.
        replica: index of the engine among the model's replicas; 0 where there is one.
        time: end of the last step, in seconds of ``time.monotonic``.
        steps: number of steps; 0 where the engine has just run out of work.
        seconds: that the engine took for them.
        prefill_tokens, decode_tokens: computed tokens of prompts, and of answers.
        preemptions: sequences that lost their slot.
        running, waiting: sequences with and without a slot.
        kv_used, kv_cached, kv_capacity: tokens held by sequences, held by the prefix cache, and in all.
    """

    model: str
    replica: int = 0
    time: float
    steps: int
    seconds: float
    prefill_tokens: int
    decode_tokens: int
    preemptions: int = 0
    running: int
    waiting: int
    kv_used: int
    kv_cached: int = 0
    kv_capacity: int

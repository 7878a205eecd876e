"""What one model's runtime is doing, as plain data."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Usage:
    """A model's queue and KV cache at one moment. Counts are tokens unless said otherwise.

    Attributes:
        model: name of the model.
        waiting, running: sequences.
        waiting_tokens, running_tokens: yet to compute, at most.
        finished: requests that have ended since the model was loaded.
        kv_used: tokens held and reserved by running sequences.
        kv_cached: tokens held by the prefix cache.
        kv_capacity: of the KV cache.
        kv_bytes_per_token: bytes of the keys and values of one token.
        cached_prefixes: entries of the prefix cache.
        cache_hits: prompt tokens that came from a cached prefix since the model was loaded.
        prefill_rate, decode_rate: tokens a second, smoothed; 0 before the first measurement.
        scheduler: the policy's class.
        silent: seconds since a step last ended while there is something to compute, of the replica that is silent longest; else 0.
    """

    model: str
    waiting: int
    running: int
    waiting_tokens: int
    running_tokens: int
    finished: int
    kv_used: int
    kv_cached: int
    kv_capacity: int
    kv_bytes_per_token: int
    cached_prefixes: int
    cache_hits: int
    prefill_rate: float
    decode_rate: float
    scheduler: str
    silent: float = 0.0

"""The KV cache capacity under a memory limit."""

from __future__ import annotations

from llmasos_hookspecs import EngineLimits, ResourceError


def kv_tokens(limits: EngineLimits, weight_bytes: int, kv_bytes: int) -> int | None:
    """Tokens, of ``kv_bytes`` each, that fit into the memory limit beside the weights, all slots together; None: no bound.

    Raises:
        ResourceError: the weights and one token a slot do not fit.
    """
    if limits.memory is None:
        return None
    room = limits.memory - weight_bytes
    if room < kv_bytes * limits.max_sequences:
        raise ResourceError(
            f"The memory limit of {limits.memory:,} bytes is too small for {weight_bytes:,} bytes of weights and one token "
            f"({kv_bytes:,} bytes) for each of {limits.max_sequences} sequences; raise it or lower max_sequences."
        )
    return room // kv_bytes if kv_bytes else None

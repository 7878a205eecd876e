"""What a memory limit leaves for keys and values."""

from __future__ import annotations

from llmasos_hookspecs import EngineLimits, ResourceError


def kv_tokens(limits: EngineLimits, weight_bytes: int, kv_bytes: int) -> int | None:
    """Tokens of all slots together that the memory limit holds beside the weights, each of ``kv_bytes``; None: without bound.

    Raises:
        ResourceError: there is no room for the weights and one token a slot.
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

"""How many tokens an encoder takes at once within a memory limit."""

from __future__ import annotations

from llmasos_encoder_kit.options import EncoderOptions
from llmasos_hookspecs import EngineLimits, ResourceError


def batch_tokens(options: EncoderOptions, limits: EngineLimits, *, context_length: int, weight_bytes: int, token_bytes: int) -> int:
    """Tokens of a batch: as many as the options say, and fewer where the memory limit says so; at least those of one text.

    Args:
        options: of the loader.
        limits: of the load.
        context_length: tokens of one text at most.
        weight_bytes: what is held whatever the batch.
        token_bytes: what one token of a batch takes beside them.

    Raises:
        ResourceError: weights and one text do not fit.
    """
    asked = max(options.batch_tokens, context_length)
    if limits.memory is None:
        return asked
    room = (limits.memory - weight_bytes) // max(1, token_bytes)
    if room < context_length:
        raise ResourceError(
            f"The weights take {weight_bytes} bytes and a text of {context_length} tokens {context_length * token_bytes}, and the limit is "
            f"{limits.memory}; allow more memory, or set a smaller context_length."
        )
    return min(asked, room)

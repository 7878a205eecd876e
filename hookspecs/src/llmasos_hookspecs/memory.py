"""A loader's estimate of the memory that a load will take."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class MemoryEstimate:
    """What an engine will hold, in bytes; the names are those of ``EngineInfo``.

    Attributes:
        weight_bytes: of the weights, in all forms in which the engine holds them.
        kv_bytes_per_token: keys and values of one token.
    """

    weight_bytes: int
    kv_bytes_per_token: int

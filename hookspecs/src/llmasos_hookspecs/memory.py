"""What a loader says of the memory that a load will take."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class MemoryEstimate:
    """What an engine will hold, in bytes; the names are those of ``EngineInfo``.

    Attributes:
        weight_bytes: of all forms in which the weights are kept.
        kv_bytes_per_token: of one token of one slot.
    """

    weight_bytes: int
    kv_bytes_per_token: int

"""An engine that computes nothing and says how long it would have taken."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CapacityExceeded, EngineInfo, Row


@attrs.frozen(kw_only=True)
class Costs:
    """What a step takes, in seconds: a part that depends on nothing (reading the weights), one for each decoded token, and one for each
    token of a prompt. The defaults are those of a model of eight billion weights on one large accelerator."""

    step: float = 8e-3
    decode: float = 15e-6
    prefill: float = 50e-6

    def seconds(self, prefill: int, decode: int) -> float:
        return self.step + self.decode * decode + self.prefill * prefill


class ModelledEngine:
    """Counts slots, and holds nothing."""

    def __init__(self, *, max_sequences: int, context_length: int = 8192) -> None:
        self.info = EngineInfo(
            vocab_size=2,
            context_length=context_length,
            max_sequences=max_sequences,
            weight_bytes=0,
            kv_bytes_per_token=1,
            features=frozenset({"batch", "kv_cache"}),
        )
        self._open: set[int] = set()
        self._numbers = itertools.count()

    def open(self) -> int:
        if len(self._open) >= self.info.max_sequences:
            raise CapacityExceeded("Every slot is open.")
        slot = next(self._numbers)
        self._open.add(slot)
        return slot

    def fork(self, slot: int) -> int:
        raise CapacityExceeded("A modelled engine does not fork.")

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        raise NotImplementedError("A modelled engine has no logits; the simulation takes its costs only.")

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is held."""

    def close(self, slot: int) -> None:
        self._open.remove(slot)

    def shutdown(self) -> None:
        self._open.clear()

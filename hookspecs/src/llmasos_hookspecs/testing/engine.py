"""An engine over the reference decoder: slow, exact, and without a framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.decoder import check_tensors
from llmasos_hookspecs.engine import EngineInfo, Row
from llmasos_hookspecs.errors import CapacityExceeded, ResourceError
from llmasos_hookspecs.reference import KeyValues, ReferenceDecoder
from llmasos_hookspecs.testing.drawing import drawn_token


class ReferenceEngine:
    """An ``Engine`` over ``ReferenceDecoder``, for tests of code that drives engines."""

    def __init__(self, checkpoint: Checkpoint, limits: EngineLimits | None = None) -> None:
        limits = limits or EngineLimits()
        check_tensors(checkpoint)
        c = checkpoint.decoder
        weights = sum(8 * int(np.prod(checkpoint.shape(name))) for name in checkpoint.names())
        token = 2 * 8 * c.num_layers * c.kv_width
        context = min(limits.context_length or c.context_length, c.context_length)
        if limits.memory is not None:
            context = min(context, (limits.memory - weights) // (token * limits.max_sequences))
            if context < min(limits.context_length or 1, c.context_length):
                raise ResourceError(
                    f"The weights take {weights} bytes and a token {token}, which {limits.memory} bytes cannot hold; allow more memory."
                )
        self.decoder = ReferenceDecoder(checkpoint)
        self._slots: dict[int, KeyValues] = {}
        self._next = 0
        self._info = EngineInfo(
            vocab_size=c.vocab_size,
            context_length=context,
            max_sequences=limits.max_sequences,
            weight_bytes=weights,
            kv_bytes_per_token=token,
            features=frozenset({"fork", "batch", "kv_cache", "sampling", "embeddings"}),
            hidden_size=c.hidden_size,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._hold(self.decoder.cache())

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        self._check(rows)
        out: list[npt.NDArray[Any]] = []
        for row in rows:
            if row.want == "hidden":
                out.append(self.decoder.hidden(row.tokens, self._slots[row.slot]).astype(np.float32))
                continue
            logits = self.decoder.logits(row.tokens, self._slots[row.slot])
            if row.draw is not None:
                out.append(np.array([drawn_token(logits[-1], row.draw)]))
            else:
                out.append(logits if row.want == "all" else logits[-1:] if row.want == "last" else logits[:0])
        return out

    def truncate(self, slot: int, length: int) -> None:
        self._slots[slot].truncate(length)

    def fork(self, slot: int) -> int:
        return self._hold(self._slots[slot].copy())

    def close(self, slot: int) -> None:
        del self._slots[slot]

    def shutdown(self) -> None:
        self._slots.clear()

    def _hold(self, cache: KeyValues) -> int:
        if len(self._slots) >= self._info.max_sequences:
            raise CapacityExceeded(f"All {self._info.max_sequences} slots are open; close one first.")
        self._next += 1
        self._slots[self._next] = cache
        return self._next

    def _check(self, rows: Sequence[Row]) -> None:
        if len({row.slot for row in rows}) < len(rows):
            raise ValueError("A slot appears twice in one step.")
        for row in rows:
            if row.slot not in self._slots:
                raise ValueError(f"Slot {row.slot} is not open.")
            if row.position != self._slots[row.slot].length:
                raise ValueError(f"Slot {row.slot} holds {self._slots[row.slot].length} tokens, and the row starts at {row.position}.")
            if not row.tokens or not all(0 <= token < self._info.vocab_size for token in row.tokens):
                raise ValueError(f"The row of slot {row.slot} has no token, or one outside 0 .. {self._info.vocab_size - 1}.")
            if row.position + len(row.tokens) > self._info.context_length:
                raise CapacityExceeded(f"Slot {row.slot} would pass the context of {self._info.context_length} tokens.")

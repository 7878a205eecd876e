"""The engine contract over a decoder: checks the rows of a step, packs them, and keeps the slots' book."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import StepPlan, plan_step
from llmasos_backend_torch.slots import SlotTable
from llmasos_backend_torch.stepping import check_rows, typed_errors
from llmasos_hookspecs import EngineInfo, ModelClosed, Row


class Decoder(Protocol):
    """The maths of a model over a packed batch."""

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        """Write the batch's keys and values into the cache; return the logits [len(plan.wanted), vocab_size], any float dtype."""
        ...

    @property
    def separate_rows(self) -> bool:
        """Whether each sequence needs a forward of its own, since something in the model depends on the longest of a batch."""
        ...


class TorchEngine:
    """Implements ``Engine``: a decoder whose keys and values lie in the slots of a ``KVCache``."""

    def __init__(self, decoder: Decoder, cache: KVCache, info: EngineInfo) -> None:
        self.info = info
        self._decoder: Decoder | None = decoder
        self._cache = cache
        self._device = torch.device(info.device)
        self._slots = SlotTable(info.max_sequences)

    def open(self) -> int:
        self._running()
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        decoder = self._running()
        rows = list(rows)
        if not rows:
            return []
        check_rows(rows, self._slots, self.info)
        with torch.inference_mode(), typed_errors():
            parts = [[row] for row in rows] if decoder.separate_rows else [rows]
            results = [logits for part in parts for logits in self._forward(decoder, part)]
        # Lengths move only now, so that a step that failed has changed nothing: what it wrote lies past the length.
        for row in rows:
            self._slots.get(row.slot).length = row.position + len(row.tokens)
        return results

    def _forward(self, decoder: Decoder, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        plan = plan_step(rows, [self._slots.get(row.slot).row for row in rows], self._device)
        self._cache.reserve(plan.rows_used, plan.span)
        logits = decoder.forward(plan, self._cache).float().cpu().numpy()
        return [logits[begin : begin + count] for begin, count in plan.results]

    def truncate(self, slot: int, length: int) -> None:
        self._running()
        self._slots.truncate(slot, length)

    def fork(self, slot: int) -> int:
        self._running()
        source = self._slots.get(slot)
        copy = self._slots.open()
        target = self._slots.get(copy)
        try:
            with torch.inference_mode(), typed_errors():
                self._cache.reserve(target.row + 1, source.length)
                self._cache.copy_row(source.row, target.row, source.length)
        except BaseException:
            self._slots.close(copy)
            raise
        target.length = source.length
        return copy

    def close(self, slot: int) -> None:
        self._running()
        self._slots.close(slot)

    def shutdown(self) -> None:
        self._decoder = None
        self._cache.clear()

    def _running(self) -> Decoder:
        if self._decoder is None:
            raise ModelClosed("The engine was shut down; load the model again.")
        return self._decoder

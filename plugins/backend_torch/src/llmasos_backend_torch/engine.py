"""The engine: validates and packs the rows of a step, calls the decoder, and tracks slot lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.adapters import adapting
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import StepPlan, plan_step
from llmasos_backend_torch.results import step_results
from llmasos_backend_torch.slots import SlotTable
from llmasos_backend_torch.stepping import check_rows, give_back, typed_errors
from llmasos_hookspecs import EngineInfo, ModelClosed, Row


class Decoder(Protocol):
    """The forward pass of a model over a packed batch."""

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        """Write the batch's keys and values into the cache; return the logits [len(plan.wanted), vocab_size], or the final hidden
        states [len(plan.wanted), hidden_size] where ``plan.hidden``, any float dtype."""
        ...

    @property
    def separate_rows(self) -> bool:
        """Whether each sequence needs its own forward pass, because the model depends on the longest sequence of a batch."""
        ...


class TorchEngine:
    """Implements ``Engine`` with a decoder over a ``KVCache``."""

    def __init__(self, decoder: Decoder, cache: KVCache, info: EngineInfo) -> None:
        self.info = info
        self._decoder: Decoder | None = decoder
        self._cache = cache
        self._device = torch.device(info.device)
        self._slots = SlotTable(info.max_sequences)

    def open(self) -> int:
        self._running()
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        decoder = self._running()
        rows = list(rows)
        if not rows:
            return []
        check_rows(rows, self._slots, self.info)
        with torch.inference_mode(), typed_errors():
            results = self._results(decoder, rows)
        # Lengths change only after success, so a failed step changes nothing: what it wrote lies past the length.
        for row in rows:
            self._slots.get(row.slot).length = row.position + len(row.tokens)
        return results

    def _results(self, decoder: Decoder, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        if decoder.separate_rows:
            return [result for row in rows for result in self._forward(decoder, [row])]
        hidden = [row for row in rows if row.want == "hidden"]
        if not hidden or len(hidden) == len(rows):
            return self._forward(decoder, rows)
        # A forward pass ends with logits or with hidden states.
        states = iter(self._forward(decoder, hidden))
        logits = iter(self._forward(decoder, [row for row in rows if row.want != "hidden"]))
        return [next(states if row.want == "hidden" else logits) for row in rows]

    def _forward(self, decoder: Decoder, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        plan = plan_step(rows, [self._slots.get(row.slot).row for row in rows], self._device)
        self._cache.reserve(plan.rows_used, plan.span)
        with adapting(plan.shares):
            logits = decoder.forward(plan, self._cache)
        return step_results(logits, plan, [row.draw for row in rows])

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
        give_back(self._device)

    def _running(self) -> Decoder:
        if self._decoder is None:
            raise ModelClosed("The engine was shut down; load the model again.")
        return self._decoder

"""An engine for models without a KV cache: every step recomputes the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.drawing import draw_tokens
from llmasos_backend_torch.slots import SlotTable
from llmasos_backend_torch.stepping import check_rows, give_back, typed_errors
from llmasos_hookspecs import EngineInfo, ModelClosed, Row


class RecomputeEngine:
    """Implements ``Engine`` with a function from token ids [n] to logits [n, vocab_size]; slots are lists of tokens.

    ``last_only``: the function returns only the last token's logits, [1, vocab_size].
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], info: EngineInfo, *, last_only: bool = False) -> None:
        self.info = info
        self._last_only = last_only
        self._logits: Callable[[Tensor], Tensor] | None = logits
        self._device = torch.device(info.device)
        self._slots = SlotTable(info.max_sequences)
        self._tokens: dict[int, list[int]] = {}

    def open(self) -> int:
        self._running()
        slot = self._slots.open()
        self._tokens[slot] = []
        return slot

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        compute = self._running()
        rows = list(rows)
        check_rows(rows, self._slots, self.info)
        with torch.inference_mode(), typed_errors():
            results = [self._row(compute, row) for row in rows]
        for row in rows:
            self._tokens[row.slot][row.position :] = row.tokens
            self._slots.get(row.slot).length = row.position + len(row.tokens)
        return results

    def _row(self, compute: Callable[[Tensor], Tensor], row: Row) -> npt.NDArray[Any]:
        if row.want == "none":
            return np.empty((0, self.info.vocab_size), np.float32)
        tokens = torch.tensor([*self._tokens[row.slot][: row.position], *row.tokens], device=self._device)
        if row.want == "last":
            logits = compute(tokens)[-1:]
        elif self._last_only:
            logits = torch.cat([compute(tokens[: end + 1]) for end in range(row.position, len(tokens))])
        else:
            logits = compute(tokens)[row.position :]
        found = logits.float() if row.draw is None else draw_tokens(logits, [row.draw])
        result: npt.NDArray[Any] = found.cpu().numpy()
        return result

    def truncate(self, slot: int, length: int) -> None:
        self._running()
        self._slots.truncate(slot, length)
        del self._tokens[slot][length:]

    def fork(self, slot: int) -> int:
        self._running()
        source = self._slots.get(slot)
        copy = self._slots.open()
        self._slots.get(copy).length = source.length
        self._tokens[copy] = self._tokens[slot][:]
        return copy

    def close(self, slot: int) -> None:
        self._running()
        self._slots.close(slot)
        del self._tokens[slot]

    def shutdown(self) -> None:
        self._logits = None
        self._tokens.clear()
        give_back(self._device)

    def _running(self) -> Callable[[Tensor], Tensor]:
        if self._logits is None:
            raise ModelClosed("The engine was shut down; load the model again.")
        return self._logits

"""Models whose rotary frequencies change once a sequence is long: ``longrope`` (arXiv:2402.13753).

Past the model's original context length *every* position is rotated by the long factors, so keys cached for a shorter sequence are invalid.
A sequence that crosses that length is recomputed as a whole, as in transformers' ``generate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from llmasos_backend_torch.engine import Decoder, TorchEngine
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.stepping import check_rows, typed_errors
from llmasos_hookspecs import EngineInfo, Row


class SwitchingEngine(TorchEngine):
    """``TorchEngine`` for a decoder whose rotations change past each of ``lengths`` tokens.

    It keeps each slot's tokens, and the number of lengths that its keys are past.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, info: EngineInfo, lengths: Sequence[int]) -> None:
        super().__init__(decoder, cache, info)
        self._lengths = tuple(lengths)
        self._tokens: dict[int, list[int]] = {}
        #: Slot -> how many of the lengths its keys are past; None where a step failed in between.
        self._past: dict[int, int | None] = {}

    def open(self) -> int:
        slot = super().open()
        self._tokens[slot], self._past[slot] = [], None
        return slot

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        decoder = self._running()
        rows = list(rows)
        check_rows(rows, self._slots, self.info)
        if any(self._crosses(row) for row in rows):
            return [self._one_by_one(row) if self._crosses(row) else self.step([row])[0].copy() for row in rows]
        for row in rows:
            past = self._past_of(_length(row))
            if row.position and self._past[row.slot] != past:
                self._past[row.slot] = None
                self._renew(decoder, row)
                self._past[row.slot] = past
        results = super().step(rows)
        for row in rows:
            self._tokens[row.slot][row.position :] = row.tokens
            self._past[row.slot] = self._past_of(_length(row))
        return results

    def _past_of(self, length: int) -> int:
        """The number of ``lengths`` that a sequence of ``length`` tokens is past."""
        return sum(length > each for each in self._lengths)

    def _crosses(self, row: Row) -> bool:
        """Whether the row holds drafts, which may be rejected, on both sides of a length."""
        end = row.position + len(row.tokens)
        return row.generated and row.known < end and self._past_of(max(row.known, row.position + 1)) != self._past_of(end)

    def _one_by_one(self, row: Row) -> npt.NDArray[Any]:
        single = [attrs.evolve(row, tokens=[token], position=row.position + at, known=0) for at, token in enumerate(row.tokens)]
        results = [self.step([each])[0].copy() for each in single]
        return np.concatenate(results) if row.want == "all" else results[-1]

    def _renew(self, decoder: Decoder, row: Row) -> None:
        """Recompute the slot's keys and values with the frequencies of its length after the row."""
        held = self._tokens[row.slot][: row.position]
        with torch.inference_mode(), typed_errors():
            self._forward(decoder, [Row(row.slot, held, 0, "none", known=_length(row))])

    def truncate(self, slot: int, length: int) -> None:
        super().truncate(slot, length)
        del self._tokens[slot][length:]

    def fork(self, slot: int) -> int:
        copy = super().fork(slot)
        self._tokens[copy], self._past[copy] = self._tokens[slot][:], self._past[slot]
        return copy

    def close(self, slot: int) -> None:
        super().close(slot)
        del self._tokens[slot], self._past[slot]

    def shutdown(self) -> None:
        super().shutdown()
        self._tokens.clear()
        self._past.clear()


def _length(row: Row) -> int:
    """Tokens of the row's sequence after it, or known to follow later."""
    return max(row.known, row.position + len(row.tokens))

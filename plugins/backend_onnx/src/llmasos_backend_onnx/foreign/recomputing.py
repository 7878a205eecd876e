"""Sequences of a graph without a KV cache: every step recomputes all earlier tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmasos_backend_onnx.foreign.runs import Batch, ExportedDecoder
from llmasos_backend_onnx.foreign.sequences import OpenSlots
from llmasos_backend_onnx.steps import Floats, Integers, wanted_logits
from llmasos_hookspecs import Row


class RecomputingSequences:
    """Implements ``Sequences``; a slot holds its tokens."""

    def __init__(self, decoder: ExportedDecoder, *, most: int) -> None:
        self._decoder = decoder
        self._slots: OpenSlots[list[int]] = OpenSlots(most)

    @property
    def tokens(self) -> int:
        return sum(map(len, self._slots.values()))

    def open(self) -> int:
        return self._slots.add(lambda _: [])

    def close(self, slot: int) -> None:
        self._slots.remove(slot)

    def fork(self, slot: int) -> int:
        return self._slots.add(lambda _: list(self._slots[slot]))

    def length(self, slot: int) -> int:
        return len(self._slots[slot])

    def truncate(self, slot: int, length: int) -> None:
        del self._slots[slot][length:]

    def compute(self, rows: Sequence[Row], tokens: Sequence[Integers]) -> list[Floats]:
        results = [self._row(row, new) for row, new in zip(rows, tokens, strict=True)]
        for row in rows:
            self._slots[row.slot].extend(row.tokens)
        return results

    def release(self) -> None:
        self._slots.clear()

    def _row(self, row: Row, tokens: Integers) -> Floats:
        if row.want == "none":
            return np.empty((0, self._decoder.form.vocab_size), dtype=np.float32)
        whole = np.array([*self._slots[row.slot], *tokens])
        if row.want == "all" and self._decoder.form.last_only:
            return np.concatenate([self._logits(whole[: end + 1], 1) for end in range(row.position, len(whole))])
        return self._logits(whole, wanted_logits(row))

    def _logits(self, tokens: Integers, keep: int) -> Floats:
        """Logits of the last ``keep`` tokens. A sequence shorter than the graph's fixed length is padded on the right, which causal
        attention does not see."""
        count = len(tokens)
        fixed = self._decoder.signature.length
        batch = Batch.of_one(tokens, 0)
        if fixed is not None:
            padded = Batch.of_one(np.pad(tokens, (0, fixed - count)), 0)
            batch = Batch(tokens=padded.tokens, positions=padded.positions, mask=(padded.positions < count).astype(np.int64))
        logits = self._decoder.run(batch, (), (), keep=keep)[0]
        end = count if fixed is not None else len(logits)
        wanted: Floats = logits[end - keep : end]
        return wanted

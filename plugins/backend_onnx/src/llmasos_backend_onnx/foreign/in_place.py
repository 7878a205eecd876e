"""Sequences of a graph that writes its KV cache in place: GroupQueryAttention over one buffer for past and present."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnxruntime as ort

from llmasos_backend_onnx.foreign.runs import Batch, ExportedDecoder
from llmasos_backend_onnx.foreign.sequences import Abilities
from llmasos_backend_onnx.slots import SlotTable
from llmasos_backend_onnx.steps import Floats, Integers, wanted_logits
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_hookspecs import Row

#: Most cached bindings; there is one for each range of adjacent rows that is computed together.
_BINDINGS: Final = 64


class InPlaceSequences:
    """Implements ``Sequences``: prefills each sequence separately, in chunks, then decodes adjacent rows as one batch.

    The operator takes each row's length from its part of the attention mask, so rows of different lengths need no padding.
    """

    def __init__(self, decoder: ExportedDecoder, abilities: Abilities, cache: KVCache, *, weight_bytes: int, chunk: int) -> None:
        self._decoder = decoder
        self._cache = cache
        self._slots = SlotTable(cache, weight_bytes)
        self._chunk = chunk if abilities.chunks else 1
        self._batch = abilities.batch != "none"
        self._bindings: OrderedDict[tuple[int, int], ort.IOBinding] = OrderedDict()

    @property
    def tokens(self) -> int:
        return self._slots.tokens

    def open(self) -> int:
        return self._slots.open()

    def close(self, slot: int) -> None:
        self._slots.close(slot)

    def fork(self, slot: int) -> int:
        return self._slots.fork(slot)

    def length(self, slot: int) -> int:
        return self._slots.length(slot)

    def truncate(self, slot: int, length: int) -> None:
        self._slots.set_length(slot, length)

    def compute(self, rows: Sequence[Row], tokens: Sequence[Integers]) -> list[Floats]:
        results: list[Floats] = [np.empty((0, self._decoder.form.vocab_size), dtype=np.float32)] * len(rows)
        single = {row.slot: index for index, row in enumerate(rows) if len(tokens[index]) == 1}
        # Move rows before computing: a move copies only the tokens that the slot is recorded to hold.
        runs = [] if not single else self._slots.neighbours(list(single)) if self._batch else [[slot] for slot in single]
        for index, row in enumerate(rows):
            if row.slot not in single:
                results[index] = self._prefill(row, tokens[index])
        for run in runs:
            indices = [single[slot] for slot in run]
            logits = self._decode(self._slots.row(run[0]), [rows[index] for index in indices])
            for place, index in enumerate(indices):
                if rows[index].want != "none":
                    results[index] = logits[place]
        for row in rows:
            self._slots.set_length(row.slot, row.position + len(row.tokens))
        return results

    def release(self) -> None:
        self._bindings.clear()
        self._cache.close()

    def _decode(self, place: int, rows: Sequence[Row]) -> Floats:
        lengths = np.array([row.position for row in rows])[:, None]
        batch = Batch(
            tokens=np.array([row.tokens for row in rows]),
            positions=lengths,
            mask=(np.arange(lengths.max() + 1)[None] <= lengths).astype(np.int64),
        )
        return self._decoder.run_bound(self._binding(place, len(rows)), batch, keep=1)

    def _prefill(self, row: Row, tokens: Integers) -> Floats:
        io = self._binding(self._slots.row(row.slot), 1)
        keep = wanted_logits(row)
        size = 1 if keep > 1 and self._decoder.form.last_only else self._chunk
        parts: list[Floats] = []
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            if keep <= 1:
                parts.clear()
            parts.append(self._decoder.run_bound(io, Batch.of_one(part, row.position + start), keep=min(keep, len(part)))[0])
        logits = np.concatenate(parts)
        return logits[len(logits) - keep :]

    def _binding(self, place: int, count: int) -> ort.IOBinding:
        """The cache of rows ``place`` and following, bound as past and as present."""
        key = (place, count)
        io = self._bindings.get(key)
        if io is None:
            io = self._bindings[key] = self._decoder.io_binding()
            arrays = self._cache.views(place, count)
            self._decoder.bind_cache(io, arrays, arrays)
            if len(self._bindings) > _BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return io

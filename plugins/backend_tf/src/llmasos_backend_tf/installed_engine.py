"""The engine over installed kernels, which attend over the KV cache in place."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmasos_backend_tf.installed import InstalledDecoder
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_decoder_kit.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineInfo, ModelClosed, Row

Logits = npt.NDArray[np.float32]


class InstalledEngine:
    """Implements ``Engine``: the tokens of all rows are one batch, computed ``prefill_chunk`` at a time. A slot holds its row of the
    KV cache."""

    def __init__(self, decoder: InstalledDecoder, cache: KVCache, info: EngineInfo, prefill_chunk: int) -> None:
        self._decoder: InstalledDecoder | None = decoder
        self._cache = cache
        addresses = cache.pointers(0)
        self._memory = list(zip(addresses[::2], addresses[1::2], strict=True))
        self._info = info
        self._chunk = prefill_chunk
        self._slots: SlotTable[int] = SlotTable(info)
        self._free = list(range(cache.rows))

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        self._running()
        slot = self._slots.open()
        self._slots[slot].held = [heapq.heappop(self._free)]
        return slot

    def step(self, rows: Sequence[Row]) -> list[Logits]:
        decoder = self._running()
        if not rows:
            return []
        self._slots.check(rows)
        counts = [len(row.tokens) for row in rows]
        wanted = [count if row.want == "all" else int(row.want == "last") for row, count in zip(rows, counts, strict=True)]
        try:
            logits = self._compute(decoder, rows, counts, wanted)
        except MemoryError as error:
            raise CapacityExceeded("There is no memory for this step; make it smaller, or close slots.") from error
        # Lengths change only after success: what a failed step wrote lies past them.
        for row, count in zip(rows, counts, strict=True):
            self._slots[row.slot].length = row.position + count
        return np.split(logits, np.cumsum(wanted)[:-1])

    def truncate(self, slot: int, length: int) -> None:
        self._slots.truncate(slot, length)

    def fork(self, slot: int) -> int:
        self._running()
        source, copy = self._slots[slot], self._slots.fork(slot)
        row = heapq.heappop(self._free)
        self._slots[copy].held = [row]
        self._cache.copy(source.held[0], row, source.length)
        return copy

    def close(self, slot: int) -> None:
        (row,) = self._slots.close(slot).held
        self._cache.forget(row)
        heapq.heappush(self._free, row)

    def shutdown(self) -> None:
        self._decoder = None
        self._slots.clear()
        self._cache.close()

    def _running(self) -> InstalledDecoder:
        if self._decoder is None:
            raise ModelClosed("The engine was shut down; load the model again.")
        return self._decoder

    def _compute(self, decoder: InstalledDecoder, rows: Sequence[Row], counts: list[int], wanted: list[int]) -> Logits:
        """The logits [sum of wanted, vocab] of each row's last ``wanted`` tokens; writes the keys and values of all."""
        tokens = np.concatenate([np.asarray(row.tokens, np.int64) for row in rows])
        places = np.empty((len(tokens), 2), np.int64)
        places[:, 0] = np.repeat([self._slots[row.slot].held[0] for row in rows], counts)
        places[:, 1] = np.concatenate([np.arange(row.position, row.position + count) for row, count in zip(rows, counts, strict=True)])
        left = np.concatenate([np.arange(count, 0, -1) for count in counts])
        kept = left <= np.repeat(wanted, counts)
        found = []
        for start in range(0, len(tokens), self._chunk):
            part = slice(start, start + self._chunk)
            states = decoder.states(tokens[part], places[part], self._memory, self._cache.length)
            found.append(states[kept[part]])
        return decoder.logits(np.concatenate(found))

"""The KV cache row and the length of each slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_hookspecs import CapacityExceeded

#: Bytes of keys and values that a closed slot may leave committed: returning and committing them again takes a tenth of the time of scoring
#: a short text.
_LEFT: Final = 4 << 20


@attrs.define
class _Slot:
    row: int
    length: int = 0
    longest: int = 0


class SlotTable:
    """Open slots and their rows.

    The graph computes only adjacent rows, so a batch with gaps between its rows needs one run for each contiguous range. ``neighbours``
    moves rows together once the runs it would have saved cost as much as the copying. This is never much worse than the better of moving at
    once and never moving (the ski rental argument).

    Args:
        run_bytes: cost of one more run of the graph: the bytes of weights it reads.
    """

    def __init__(self, cache: KVCache, run_bytes: int) -> None:
        self._cache = cache
        self._run_bytes = run_bytes
        self._owed = 0
        self._slots: dict[int, _Slot] = {}
        self._at: list[int | None] = [None] * cache.rows
        self._next = 0

    def open(self) -> int:
        if None not in self._at:
            raise CapacityExceeded(f"All {len(self._at)} slots of the engine are open; close one, or load with a larger max_sequences.")
        slot, row = self._next, self._at.index(None)
        self._next += 1
        self._at[row] = slot
        self._slots[slot] = _Slot(row)
        return slot

    def close(self, slot: int) -> None:
        found = self._find(slot)
        if found.longest * self._cache.bytes_per_token > _LEFT:
            self._cache.forget(found.row)
        self._at[found.row] = None
        del self._slots[slot]

    def fork(self, slot: int) -> int:
        source = self._find(slot)
        copy = self.open()
        self._cache.copy(source.row, self._slots[copy].row, source.length)
        self.set_length(copy, source.length)
        return copy

    def row(self, slot: int) -> int:
        return self._find(slot).row

    def length(self, slot: int) -> int:
        return self._find(slot).length

    def set_length(self, slot: int, length: int) -> None:
        found = self._find(slot)
        found.length, found.longest = length, max(length, found.longest)

    @property
    def tokens(self) -> int:
        """Tokens in all slots together."""
        return sum(slot.length for slot in self._slots.values())

    def neighbours(self, slots: Sequence[int]) -> list[list[int]]:
        """The slots in the order of their rows, split into adjacent ranges; moves rows together if that pays."""
        runs = self._runs(slots)
        if len(runs) == 1:
            return runs
        self._owed += (len(runs) - 1) * self._run_bytes
        start, cost = self._best_place(slots)
        if self._owed < cost:
            return runs
        self._move(slots, start)
        self._owed = 0
        return self._runs(slots)

    def _runs(self, slots: Sequence[int]) -> list[list[int]]:
        runs: list[list[int]] = []
        previous = -2
        for slot in sorted(slots, key=self.row):
            row = self._slots[slot].row
            if row == previous + 1:
                runs[-1].append(slot)
            else:
                runs.append([slot])
            previous = row
        return runs

    def _best_place(self, slots: Sequence[int]) -> tuple[int, int]:
        """The first row of the range that needs the least copying, and the bytes to copy."""
        count, wanted = len(slots), set(slots)
        best = (0, -1)
        for start in range(len(self._at) - count + 1):
            stretch = self._at[start : start + count]
            moved = [slot for slot in stretch if slot is not None and slot not in wanted]
            moved += wanted.difference(slot for slot in stretch if slot is not None)
            cost = 2 * self._cache.bytes_per_token * sum(self._slots[slot].length for slot in moved)
            if best[1] < 0 or cost < best[1]:
                best = (start, cost)
        return best

    def _move(self, slots: Sequence[int], start: int) -> None:
        stretch = range(start, start + len(slots))
        wanted = set(slots)
        holes = [row for row in stretch if self._at[row] not in wanted]
        outside = [slot for slot in slots if self._slots[slot].row not in stretch]
        for slot, hole in zip(outside, holes, strict=True):
            mover, other = self._slots[slot], self._at[hole]
            row = mover.row
            if other is None:
                self._cache.copy(row, hole, mover.length)
                self._cache.forget(row)
            else:
                self._cache.swap(row, mover.length, hole, self._slots[other].length)
                self._slots[other].row = row
            self._at[row], self._at[hole] = other, slot
            mover.row = hole

    def _find(self, slot: int) -> _Slot:
        try:
            return self._slots[slot]
        except KeyError:
            raise ValueError(f"Slot {slot} is not open; open slots are {sorted(self._slots) or 'none'}.") from None

"""The open slots with the length and the KV cache row of each."""

from __future__ import annotations

import heapq

import attrs

from llmasos_hookspecs import CapacityExceeded, RequestError


@attrs.define
class Slot:
    """An open slot: its row in the KV cache and the tokens it holds."""

    row: int
    length: int = 0


class SlotTable:
    """Slot id -> ``Slot``. Ids are never used twice; the lowest free row is taken first, so that open rows stay adjacent."""

    def __init__(self, max_sequences: int) -> None:
        self._max = max_sequences
        self._slots: dict[int, Slot] = {}
        self._free = list(range(max_sequences))
        self._next = 0

    def __len__(self) -> int:
        return len(self._slots)

    def open(self) -> int:
        """A new empty slot. Raises ``CapacityExceeded`` where all are open."""
        if not self._free:
            raise CapacityExceeded(f"All {self._max} slots are open; close one first, or load with a higher max_sequences.")
        slot, self._next = self._next, self._next + 1
        self._slots[slot] = Slot(heapq.heappop(self._free))
        return slot

    def get(self, slot: int) -> Slot:
        """Raises ``RequestError`` where the slot is not open."""
        try:
            return self._slots[slot]
        except KeyError:
            raise RequestError(f"Slot {slot} is not open; open() and fork() give slots.") from None

    def truncate(self, slot: int, length: int) -> None:
        """Raises ``RequestError`` where the slot is not open or holds less."""
        found = self.get(slot)
        if not 0 <= length <= found.length:
            raise RequestError(f"Slot {slot} holds {found.length} tokens and cannot be truncated to {length}.")
        found.length = length

    def close(self, slot: int) -> None:
        """Raises ``RequestError`` where the slot is not open."""
        heapq.heappush(self._free, self.get(slot).row)
        del self._slots[slot]

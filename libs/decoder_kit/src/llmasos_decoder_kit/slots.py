"""Open slots and the validation of a step against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs

from llmasos_hookspecs import CapacityExceeded, EngineInfo, Row

T = TypeVar("T")


@attrs.define(eq=False)
class Slot(Generic[T]):
    """A slot with ``length`` tokens and the engine's data for them: blocks of the KV cache, cache tensors, or the tokens themselves.

    ``tokens`` and ``long`` are for decoders whose rotations change for long sequences: the slot's tokens, and whether its keys were
    computed with the long rotations; None if unknown.
    """

    held: list[T] = attrs.field(factory=list)
    length: int = 0
    tokens: list[int] = attrs.field(factory=list)
    long: bool | None = False


class SlotTable(Generic[T]):
    """Slots by number; numbers are never used twice. What slots hold is the engine's to take and to give back."""

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._slots: dict[int, Slot[T]] = {}
        self._next = 0

    def __getitem__(self, slot: int) -> Slot[T]:
        try:
            return self._slots[slot]
        except KeyError:
            raise ValueError(f"Slot {slot} is not open; open slots are {sorted(self._slots) or 'none'}.") from None

    def open(self) -> int:
        """A new empty slot. Raises ``CapacityExceeded`` where ``max_sequences`` are open."""
        if len(self._slots) >= self._info.max_sequences:
            raise CapacityExceeded(
                f"All {self._info.max_sequences} slots of the engine are open; close one, or load with a larger max_sequences."
            )
        self._next += 1
        self._slots[self._next] = Slot()
        return self._next

    def fork(self, slot: int) -> int:
        """A new slot with the tokens of ``slot``, holding the same data: the engine copies the data or shares it."""
        source = self[slot]
        copy = self.open()
        self._slots[copy] = Slot(list(source.held), source.length, list(source.tokens), source.long)
        return copy

    def truncate(self, slot: int, length: int) -> Slot[T]:
        """Cut a slot back to ``length`` tokens and return it; the engine gives back the data behind them."""
        cut = self[slot]
        if not 0 <= length <= cut.length:
            raise ValueError(f"Slot {slot} holds {cut.length} tokens and cannot be cut to {length}.")
        cut.length = length
        del cut.tokens[length:]
        return cut

    def close(self, slot: int) -> Slot[T]:
        """Forget the slot; returns what it held."""
        self[slot]
        return self._slots.pop(slot)

    def clear(self) -> None:
        """Forget all slots."""
        self._slots.clear()

    def check(self, rows: Sequence[Row]) -> None:
        """Validate the rows of a step before anything is computed.

        Raises:
            ValueError: a row is empty, does not continue its slot, shares it with another row, or has a token out of the vocabulary.
            CapacityExceeded: a slot would pass the engine's context length.
        """
        if len({row.slot for row in rows}) < len(rows):
            raise ValueError("A step holds the same slot twice; give each slot one row.")
        for row in rows:
            length = self[row.slot].length
            if row.position != length:
                raise ValueError(f"Slot {row.slot} holds {length} tokens, and the row starts at position {row.position}.")
            if not len(row.tokens):
                raise ValueError(f"The row of slot {row.slot} has no token.")
            if min(row.tokens) < 0 or max(row.tokens) >= self._info.vocab_size:
                raise ValueError(f"The row of slot {row.slot} has a token outside 0 .. {self._info.vocab_size - 1}.")
        for row in rows:
            if row.position + len(row.tokens) > self._info.context_length:
                raise CapacityExceeded(f"Slot {row.slot} would pass the engine's context of {self._info.context_length} tokens.")

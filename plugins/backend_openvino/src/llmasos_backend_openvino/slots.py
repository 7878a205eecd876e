"""Open slots, the blocks that hold their tokens, and whether a step fits them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from llmasos_backend_openvino.attention import BLOCK
from llmasos_backend_openvino.kv_cache import BlockPool, blocks_for
from llmasos_hookspecs import CapacityExceeded, EngineInfo, Row


@attrs.define(eq=False)
class Slot:
    """``length`` tokens in ``blocks``.

    ``tokens`` and ``long`` are of decoders that rotate long sequences otherwise than short ones: what the slot was computed from, and
    whether as a long one; None where that is unknown.
    """

    blocks: list[int] = attrs.field(factory=list)
    length: int = 0
    tokens: list[int] = attrs.field(factory=list)
    long: bool | None = False


class SlotTable:
    """Slots by number; numbers are never used twice. A fork shares its origin's blocks until either writes to one."""

    def __init__(self, info: EngineInfo, pool: BlockPool) -> None:
        self._info = info
        self._pool = pool
        self._slots: dict[int, Slot] = {}
        self._next = 0

    def __getitem__(self, slot: int) -> Slot:
        try:
            return self._slots[slot]
        except KeyError:
            raise ValueError(f"Slot {slot} is not open; open slots are {sorted(self._slots) or 'none'}.") from None

    def open(self) -> int:
        if len(self._slots) >= self._info.max_sequences:
            raise CapacityExceeded(
                f"All {self._info.max_sequences} slots of the engine are open; close one, or load with a larger max_sequences."
            )
        self._next += 1
        self._slots[self._next] = Slot()
        return self._next

    def fork(self, slot: int) -> int:
        source = self[slot]
        copy = self.open()
        self._pool.share(source.blocks)
        self._slots[copy] = Slot(list(source.blocks), source.length, list(source.tokens), source.long)
        return copy

    def truncate(self, slot: int, length: int) -> None:
        held = self[slot]
        if not 0 <= length <= held.length:
            raise ValueError(f"Slot {slot} holds {held.length} tokens and cannot be cut to {length}.")
        held.length = length
        del held.tokens[length:]
        self.trim(slot)

    def close(self, slot: int) -> None:
        self._pool.give_back(self[slot].blocks)
        del self._slots[slot]

    def trim(self, slot: int) -> None:
        """Give back the blocks behind the slot's tokens."""
        held = self[slot]
        keep = blocks_for(held.length)
        self._pool.give_back(held.blocks[keep:])
        del held.blocks[keep:]

    def reserve(self, slot: int, start: int, end: int) -> None:
        """Blocks for the tokens before ``end``, of which those from ``start`` on may be written.

        Raises ``CapacityExceeded`` where there are not enough; what the slot holds stays as it is.
        """
        held = self[slot]
        for at in range(start // BLOCK, len(held.blocks)):
            if self._pool.shared(held.blocks[at]):
                mine = self._pool.take()
                self._pool.copy(held.blocks[at], mine)
                self._pool.give_back([held.blocks[at]])
                held.blocks[at] = mine
        while len(held.blocks) < blocks_for(end):
            held.blocks.append(self._pool.take())

    def check(self, rows: Sequence[Row]) -> None:
        """Raise before anything is computed where a row does not fit its slot."""
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

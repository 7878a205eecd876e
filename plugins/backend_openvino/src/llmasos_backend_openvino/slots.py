"""Open slots, and the blocks that hold their tokens."""

from __future__ import annotations

from llmasos_backend_openvino.kv_cache import BlockPool
from llmasos_decoder_kit.slots import Slot, SlotTable
from llmasos_hookspecs import EngineInfo


class BlockSlots(SlotTable[int]):
    """Slots that hold blocks of a pool. A fork shares its origin's blocks until either writes to one."""

    def __init__(self, info: EngineInfo, pool: BlockPool) -> None:
        super().__init__(info)
        self._pool = pool

    def fork(self, slot: int) -> int:
        copy = super().fork(slot)
        self._pool.share(self[copy].held)
        return copy

    def truncate(self, slot: int, length: int) -> Slot[int]:
        cut = super().truncate(slot, length)
        self.trim(slot)
        return cut

    def close(self, slot: int) -> Slot[int]:
        closed = super().close(slot)
        self._pool.give_back(closed.held)
        return closed

    def trim(self, slot: int) -> None:
        """Give back the blocks behind the slot's tokens."""
        blocks, keep = self[slot].held, self._pool.layout.blocks_for(self[slot].length)
        self._pool.give_back(blocks[keep:])
        del blocks[keep:]

    def reserve(self, slot: int, start: int, end: int) -> None:
        """Blocks for the tokens before ``end``, of which those from ``start`` on may be written.

        Raises ``CapacityExceeded`` where there are not enough; what the slot holds stays as it is.
        """
        blocks = self[slot].held
        for at in range(start // self._pool.layout.block, len(blocks)):
            if self._pool.shared(blocks[at]):
                mine = self._pool.take()
                self._pool.memory.copy(blocks[at], mine)
                self._pool.give_back([blocks[at]])
                blocks[at] = mine
        while len(blocks) < self._pool.layout.blocks_for(end):
            blocks.append(self._pool.take())

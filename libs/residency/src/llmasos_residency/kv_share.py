"""The KV ledger of an engine that shares its memory with other models."""

from __future__ import annotations

from typing import Final

from llmasos_engine.ledger import KVLedger
from llmasos_residency.memory import KVShare, MemoryLedger

#: Tokens drawn from the memory ledger at once, so that most steps need no lock of it.
_PAGE: Final = 64


class SharedKVLedger(KVLedger):
    """A KV ledger that draws memory from the process's memory ledger as the slots grow, and returns it as they shrink. Only the thread of
    its loop calls it."""

    def __init__(self, capacity: int, memory: MemoryLedger, share: KVShare) -> None:
        """``capacity``: tokens that the engine's own slots can hold."""
        self._slots_hold = capacity
        self._memory = memory
        self._share = share
        super().__init__(capacity)

    @property
    def capacity(self) -> int:
        """Tokens that the engine could hold if its model were the only one in memory."""
        most = self._memory.most_tokens(self._share.account)
        return self._slots_hold if most is None else min(self._slots_hold, most)

    @capacity.setter
    def capacity(self, tokens: int) -> None:
        self._slots_hold = tokens

    @property
    def free(self) -> int:
        """Tokens that are drawn or claimed, and not used; more may be drawn."""
        return max(0, min(self._slots_hold, max(self._share.drawn, self._share.account.floor)) - self.used)

    def ensure(self, tokens: int) -> bool:
        return tokens <= self.free or self._draw(self.used + tokens)

    def reserve(self, slot: int, tokens: int) -> bool:
        if self.used + tokens > self._share.drawn and not self._draw(self.used + tokens):
            return False
        self._reserve(slot, tokens)  # what is drawn is free, and less than ``capacity``, which takes longer to tell
        return True

    def release(self, slot: int) -> None:
        super().release(slot)
        self._give_back()

    def truncate(self, slot: int, length: int) -> None:
        super().truncate(slot, length)
        self._give_back()

    def close(self, slot: int) -> None:
        super().close(slot)
        self._give_back()

    def clear(self) -> None:
        super().clear()
        self._give_back()

    def _draw(self, tokens: int) -> bool:
        if tokens > self._slots_hold:
            return False
        paged = min(-(-tokens // _PAGE) * _PAGE, self._slots_hold)
        return self._memory.draw(self._share, paged) or self._memory.draw(self._share, tokens)

    def _give_back(self) -> None:
        keep = -(-self.used // _PAGE) * _PAGE
        # Two pages of slack: a sequence whose length oscillates around a page border does not take the lock each time.
        if self._share.drawn - keep >= 2 * _PAGE or not self.used:
            self._memory.give_back(self._share, keep)

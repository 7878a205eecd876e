"""The KV ledger: who holds how many tokens of the KV cache, and who is about to."""

from __future__ import annotations

from llmasos_hookspecs import EngineInfo, ResourceError


class KVLedger:
    """Counts the tokens of every slot against one capacity; nothing is ever over-committed.

    Growth is a transaction: ``reserve`` before a step, then ``commit`` where the step succeeded or ``release`` where it did not.

    Attributes:
        capacity: tokens, over all slots.
        used: tokens held and reserved.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._held: dict[int, int] = {}
        self._reserved: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Tokens that can still be reserved."""
        return self.capacity - self.used

    def ensure(self, tokens: int) -> bool:
        """Whether ``tokens`` can be reserved now."""
        return tokens <= self.free

    def held(self, slot: int) -> int:
        """Tokens committed to ``slot``."""
        return self._held[slot]

    def open(self, slot: int) -> None:
        """Start an account for a new, empty slot."""
        if slot in self._held:
            raise ValueError(f"slot {slot} is open already")
        self._held[slot] = 0

    def reserve(self, slot: int, tokens: int) -> bool:
        """Set ``tokens`` more aside for ``slot``; False, and nothing changed, where they are not free."""
        if tokens > self.capacity - self.used:
            return False
        if slot in self._reserved or slot not in self._held or tokens < 0:
            raise ValueError(f"slot {slot} cannot reserve {tokens} tokens: it is not open, or has a reservation")
        self._reserved[slot] = tokens
        self.used += tokens
        return True

    def commit(self, slot: int) -> None:
        """The reserved tokens are in the cache now."""
        self._held[slot] += self._reserved.pop(slot)

    def release(self, slot: int) -> None:
        """The step did not happen: forget the reservation of ``slot``, if it has one."""
        self.used -= self._reserved.pop(slot, 0)

    def truncate(self, slot: int, length: int) -> None:
        """``slot`` holds its first ``length`` tokens only."""
        if not 0 <= length <= self._held[slot]:
            raise ValueError(f"slot {slot} holds {self._held[slot]} tokens, not {length}")
        self.used -= self._held[slot] - length
        self._held[slot] = length

    def close(self, slot: int) -> None:
        """Give back all that ``slot`` holds and reserved."""
        self.release(slot)
        self.used -= self._held.pop(slot)

    def clear(self) -> None:
        """All slots are gone."""
        self._held.clear()
        self._reserved.clear()
        self.used = 0

    @property
    def slots(self) -> int:
        """Open slots."""
        return len(self._held)


def kv_capacity(info: EngineInfo, memory: int | None = None) -> int:
    """Tokens that an engine's KV cache can hold: its slots' lengths, and what ``memory`` bytes leave beside the weights.

    Raises ``ResourceError`` where not even one token fits.
    """
    tokens = info.max_sequences * info.context_length
    if memory is not None and info.kv_bytes_per_token:
        tokens = min(tokens, (memory - info.weight_bytes) // info.kv_bytes_per_token)
    if tokens < 1:
        raise ResourceError(
            f"A budget of {memory} bytes holds no KV cache beside {info.weight_bytes} bytes of weights; raise resources.memory "
            f"or load a smaller or quantised model."
        )
    return tokens

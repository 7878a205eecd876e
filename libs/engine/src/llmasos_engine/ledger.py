"""The KV ledger: how many tokens of the KV cache each slot holds and has reserved."""

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
        """Whether ``tokens`` tokens can be reserved now."""
        return tokens <= self.free

    def held(self, slot: int) -> int:
        """Tokens committed to ``slot``."""
        return self._held[slot]

    def open(self, slot: int) -> None:
        """Add a new, empty slot."""
        if slot in self._held:
            raise ValueError(f"slot {slot} is open already")
        self._held[slot] = 0

    def reserve(self, slot: int, tokens: int) -> bool:
        """Reserve ``tokens`` more tokens for ``slot``; False, and nothing changed, where they are not free."""
        if tokens > self.capacity - self.used:
            return False
        self._reserve(slot, tokens)
        return True

    def _reserve(self, slot: int, tokens: int) -> None:
        """Reserve tokens that are free."""
        if slot in self._reserved or slot not in self._held or tokens < 0:
            raise ValueError(f"slot {slot} cannot reserve {tokens} tokens: it is not open, or has a reservation")
        self._reserved[slot] = tokens
        self.used += tokens

    def commit(self, slot: int) -> None:
        """Turn the reservation of ``slot`` into held tokens, after the step that computed them."""
        self._held[slot] += self._reserved.pop(slot)

    def release(self, slot: int) -> None:
        """Drop the reservation of ``slot``, if it has one, after a step that failed."""
        self.used -= self._reserved.pop(slot, 0)

    def truncate(self, slot: int, length: int) -> None:
        """Reduce what ``slot`` holds to its first ``length`` tokens."""
        if not 0 <= length <= self._held[slot]:
            raise ValueError(f"slot {slot} holds {self._held[slot]} tokens, not {length}")
        self.used -= self._held[slot] - length
        self._held[slot] = length

    def close(self, slot: int) -> None:
        """Remove ``slot``, with all that it holds and has reserved."""
        self.release(slot)
        self.used -= self._held.pop(slot)

    def clear(self) -> None:
        """Remove all slots."""
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
        tokens = min(tokens, (memory - info.fixed_bytes) // info.kv_bytes_per_token)
    if tokens < 1:
        raise ResourceError(
            f"A budget of {memory} bytes holds no KV cache beside {info.fixed_bytes} bytes of weights and kept media; raise "
            f"resources.memory or load a smaller or quantised model."
        )
    return tokens

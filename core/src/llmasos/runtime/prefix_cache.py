"""Finished sequences whose keys and values are kept, to be found again by a prompt that begins alike."""

from __future__ import annotations

from collections import abc

import attrs


def common_prefix(a: abc.Sequence[int], b: abc.Sequence[int], limit: int) -> int:
    """Number of leading tokens that ``a`` and ``b`` share, ``limit`` at most."""
    high = min(len(a), len(b), limit)
    if a[:high] == b[:high]:
        return high
    low = 0
    while low < high:  # a[:low] agrees; slices are compared in C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@attrs.define(eq=False)
class CachedPrefix:
    """A slot nobody runs in, and what it holds. ``value`` orders eviction: the least goes first."""

    slot: int
    tenant: str
    tokens: list[int]
    value: float


class PrefixCache:
    """Which slots hold what, by tenant: one tenant's tokens never serve another, not even as a hint in its timing.

    Evicts by GreedyDual (Cao and Irani: Cost-Aware WWW Proxy Caching Algorithms, 1997) with the tokens to recompute as the cost: an
    entry's value is its length plus the value of the entry evicted last, so that long prefixes stay longer but none for ever.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._entries: dict[int, CachedPrefix] = {}
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: CachedPrefix) -> bool:
        return self._entries.get(entry.slot) is entry

    def add(self, slot: int, tenant: str, tokens: list[int]) -> None:
        """Keep ``slot``, which holds ``tokens``."""
        self._entries[slot] = CachedPrefix(slot, tenant, tokens, self._floor + len(tokens))
        self.tokens += len(tokens)

    def match(self, tenant: str, tokens: list[int], limit: int) -> tuple[CachedPrefix, int] | None:
        """The tenant's entry that shares most of ``tokens``, and how many (``limit`` at most); None where none shares any."""
        best: CachedPrefix | None = None
        length = 0
        for entry in self._entries.values():
            if entry.tenant == tenant and (shared := common_prefix(entry.tokens, tokens, limit)) > length:
                best, length = entry, shared
        return None if best is None else (best, length)

    def touch(self, entry: CachedPrefix) -> None:
        """The entry was of use: it stays longer."""
        entry.value = self._floor + len(entry.tokens)

    def take(self, entry: CachedPrefix) -> None:
        """The entry's slot belongs to someone again."""
        del self._entries[entry.slot]
        self.tokens -= len(entry.tokens)

    def evict(self, sparing: CachedPrefix | None = None) -> int | None:
        """Forget the least valuable entry but ``sparing``: its slot, to be closed; None where there is none."""
        entry = min((entry for entry in self._entries.values() if entry is not sparing), key=lambda entry: entry.value, default=None)
        if entry is None:
            return None
        self._floor = entry.value
        self.take(entry)
        return entry.slot

    def clear(self) -> None:
        """Forget everything: the slots are gone already."""
        self._entries.clear()
        self.tokens = 0

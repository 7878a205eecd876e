"""The prefix cache: slots of finished sequences, kept for later prompts that begin with the same tokens."""

from __future__ import annotations

from collections import abc

import attrs

from llmasos_hookspecs import Request


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


def sharing(request: Request) -> str:
    """Which requests share keys and values: those of one tenant that are computed with the same adapter."""
    return f"{request.tenant}\0{request.adapter}" if request.adapter else request.tenant


@attrs.define(eq=False)
class CachedPrefix:
    """The slot of a finished sequence, and the tokens it holds. The entry with the least ``value`` is evicted first."""

    slot: int
    sharer: str
    tokens: list[int]
    value: float


class PrefixCache:
    """Cached prefixes by those who may share them (``sharing``). A prefix serves its own tenant only, so that timing reveals nothing about
    other tenants' prompts.

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

    def add(self, slot: int, sharer: str, tokens: list[int]) -> None:
        """Add ``slot``, which holds ``tokens``."""
        self._entries[slot] = CachedPrefix(slot, sharer, tokens, self._floor + len(tokens))
        self.tokens += len(tokens)

    def match(self, sharer: str, tokens: list[int], limit: int) -> tuple[CachedPrefix, int] | None:
        """The sharer's entry with the longest common prefix with ``tokens``, and that length (at most ``limit``); None without one."""
        best: CachedPrefix | None = None
        length = 0
        for entry in self._entries.values():
            if entry.sharer == sharer and (shared := common_prefix(entry.tokens, tokens, limit)) > length:
                best, length = entry, shared
        return None if best is None else (best, length)

    def touch(self, entry: CachedPrefix) -> None:
        """Record a use of the entry, which delays its eviction."""
        entry.value = self._floor + len(entry.tokens)

    def take(self, entry: CachedPrefix) -> None:
        """Remove the entry, because a sequence takes over its slot."""
        del self._entries[entry.slot]
        self.tokens -= len(entry.tokens)

    def evict(self, sparing: CachedPrefix | None = None) -> int | None:
        """Evict the entry of least value other than ``sparing``; returns its slot, which the caller closes, or None."""
        entry = min((entry for entry in self._entries.values() if entry is not sparing), key=lambda entry: entry.value, default=None)
        if entry is None:
            return None
        self._floor = entry.value
        self.take(entry)
        return entry.slot

    def clear(self) -> None:
        """Forget all entries, whose slots no longer exist."""
        self._entries.clear()
        self.tokens = 0

"""The waiting queue: the best-ranked of many sequences, without ranking them all at every step."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any, Final

from llmasos.runtime.policy import GuardedPolicy
from llmasos.runtime.sequence import Sequence

#: Heads of tenants ranked anew in one look at most.
_LOOK: Final = 64
#: Waiting sequences ranked anew a step, in turn, whether their time has come or not.
_REFRESH: Final = 16


class _Entry:
    """One sequence's place. ``key`` is its valid item in its tenant's heap; other items that name it are stale."""

    __slots__ = ("key", "sequence")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.key: _Item | None = None


#: Rank, a number that no two items share (so that entries are never compared), and whose it is.
_Item = tuple[Any, int, _Entry]


class WaitingQueue:
    """Sequences that wait for a slot: one heap a tenant, and one over the tenants' heads.

    A rank may depend on time and on counters, so one that was taken earlier is only a guess. It is taken anew when its sequence heads
    its tenant and seems to be the best of all: between tenants the order is exact for ranks that only get worse meanwhile, such as
    fair shares. For those that get better, such as ageing, a few are taken anew in turn at each step. Within a tenant the order is that
    of the ranks when they were queued, until their turn comes. So a step costs the same with ten waiting or ten thousand, and a tenant
    who floods the queue takes one place at its head.

    Attributes:
        tokens: tokens yet to compute at most of all that wait.
        prompt_tokens: of their prompts.
    """

    def __init__(self, policy: GuardedPolicy) -> None:
        self.tokens = 0
        self.prompt_tokens = 0
        self._policy = policy
        self._entries: dict[str, _Entry] = {}
        self._turn: deque[_Entry] = deque()
        self._tenants: dict[str, list[_Item]] = {}
        self._heads: list[_Item] = []
        self._number = 0
        self._stale = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.request.id in self._entries

    def sequences(self) -> list[Sequence]:
        """All that wait, in no particular order."""
        return [entry.sequence for entry in self._entries.values()]

    def push(self, sequence: Sequence, now: float) -> None:
        """Add a sequence; whether its id waits already is the caller's to know."""
        entry = _Entry(sequence)
        self._entries[sequence.request.id] = entry
        self._turn.append(entry)
        self.tokens += sequence.remaining
        self.prompt_tokens += sequence.prompt_length
        try:
            self._place(entry, self._policy.rank(sequence, now))
        except Exception as error:  # ranks that cannot be compared with one another
            self._policy.rank_failed(error)
            self.rank_all(now)

    def remove(self, sequence: Sequence, now: float) -> None:
        """Take a sequence out, wherever it stands."""
        entry = self._entries.pop(sequence.request.id)
        entry.key = None
        self.tokens -= sequence.remaining
        self.prompt_tokens -= sequence.prompt_length
        try:
            self._drop_stale(sequence.request.tenant)
        except Exception as error:
            self._policy.rank_failed(error)
            self.rank_all(now)

    def best(self, now: float) -> Sequence | None:
        """The best-ranked sequence; None where nobody waits."""
        try:
            return self._look(now)
        except Exception as error:
            self._policy.rank_failed(error)
            self.rank_all(now)
            return self._look(now)

    def refresh(self, now: float) -> None:
        """Rank a few sequences anew, in turn; those that got better move up."""
        try:
            for _ in range(min(_REFRESH, len(self._turn))):
                entry = self._turn.popleft()
                if entry.key is None:
                    continue
                self._turn.append(entry)
                rank = self._policy.rank(entry.sequence, now)
                if rank < entry.key[0]:
                    self._place(entry, rank)
                    self._stale += 1
        except Exception as error:
            self._policy.rank_failed(error)
            self.rank_all(now)
        if self._stale > len(self._entries) + 256 or len(self._heads) > 2 * len(self._tenants) + 256:
            self._sweep()

    def use_policy(self, policy: GuardedPolicy, now: float) -> None:
        """Rank everything by another policy."""
        self._policy = policy
        self.rank_all(now)

    def rank_all(self, now: float) -> None:
        """Rank everything anew."""
        self._heads, self._tenants, self._stale = [], {}, 0
        self._turn = deque(self._entries.values())
        try:
            for entry in self._entries.values():
                self._place(entry, self._policy.rank(entry.sequence, now))
        except Exception as error:
            if self._policy.by_arrival:
                raise
            self._policy.rank_failed(error)
            self.rank_all(now)

    def _place(self, entry: _Entry, rank: Any) -> None:
        self._number += 1
        entry.key = (rank, self._number, entry)
        heap = self._tenants.setdefault(entry.sequence.request.tenant, [])
        heappush(heap, entry.key)
        if heap[0] is entry.key:
            heappush(self._heads, entry.key)

    def _drop_stale(self, tenant: str) -> None:
        """Bring a valid item to the head of a tenant's heap."""
        heap = self._tenants[tenant]
        head = heap[0]
        while heap and heap[0][2].key is not heap[0]:
            heappop(heap)
        if not heap:
            del self._tenants[tenant]
        elif heap[0] is not head:
            heappush(self._heads, heap[0])

    def _look(self, now: float) -> Sequence | None:
        heads = self._heads
        looks = 0
        while heads:
            rank, _, entry = item = heads[0]
            key = entry.key
            heap = self._tenants.get(entry.sequence.request.tenant)
            if key is None or not heap or heap[0] is not key or item[1] != key[1]:
                heappop(heads)  # left the queue, or is not its tenant's best any more
                continue
            looks += 1
            fresh = self._policy.rank(entry.sequence, now)
            if fresh == rank or looks > _LOOK:
                return entry.sequence
            heappop(heads)
            # The tenant's own heap keeps the rank from when it was pushed: ranks of one tenant move together.
            heappush(heads, (fresh, key[1], entry))
        return None

    def _sweep(self) -> None:
        """Forget items that are stale; they are only found out when they come to the head."""
        for tenant, heap in list(self._tenants.items()):
            heap[:] = [item for item in heap if item[2].key is item]
            heapify(heap)
            if not heap:
                del self._tenants[tenant]
        self._heads = [heap[0] for heap in self._tenants.values()]
        heapify(self._heads)
        self._stale = 0

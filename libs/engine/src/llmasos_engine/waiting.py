"""The waiting queue: finds the best-ranked of many sequences without ranking all of them at every step."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections import OrderedDict
from typing import Any, Final

from llmasos_engine.policy import GuardedPolicy
from llmasos_engine.sequence import Sequence

#: Most tenants' heads that one search for the best sequence ranks again.
_LOOK: Final = 64
#: Waiting sequences that each step ranks again, in turn.
_REFRESH: Final = 16


class _WaitingSequence:
    """A queued sequence with its item in its tenant's list, and its item in the list of heads where it is its tenant's head."""

    __slots__ = ("head", "item", "sequence")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.item: _Item | None = None
        self.head: _Item | None = None


#: Rank, a unique number (so that sequences are never compared), and the sequence.
_Item = tuple[Any, int, _WaitingSequence]


class WaitingQueue:
    """Sequences that wait for a slot: one sorted list for each tenant, and a sorted list of the tenants' heads.

    A rank may depend on time and on counters, so a stored rank can be out of date. It is computed again when its sequence is its tenant's
    head and seems to be the best of all: between tenants the order is exact for ranks that only get worse with time, such as fair
    shares. For ranks that get better, such as ageing, each step computes a few again in turn. Within a tenant the order follows the ranks
    at the time of queueing, until their turn comes. So a step costs the same with ten or ten thousand waiting sequences, and a tenant
    that floods the queue has one item in the list of heads.

    Lists rather than heaps: an item is removed from the middle at once, so that no step has to clean up after many others. Shifting the
    rest of a list of 10,000 takes 2 microseconds; cleaning a heap of that size took 15 milliseconds (``make simulate`` times decisions).

    Attributes:
        tokens: tokens yet to compute, at most, over all waiting sequences.
        prompt_tokens: tokens of their prompts; 0 only where none waits, since no prompt is empty.
    """

    def __init__(self, policy: GuardedPolicy) -> None:
        self.tokens = 0
        self.prompt_tokens = 0
        self._policy = policy
        self._waiting: OrderedDict[str, _WaitingSequence] = OrderedDict()  # by request id; the first is the next to be ranked anew
        self._tenants: dict[str, list[_Item]] = {}
        self._heads: list[_Item] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.request.id in self._waiting

    def sequences(self) -> list[Sequence]:
        """All waiting sequences, in no particular order."""
        return [waiting.sequence for waiting in self._waiting.values()]

    def push(self, sequence: Sequence, now: float) -> None:
        """Add a sequence. Its id must not be in the queue."""
        waiting = self._waiting[sequence.request.id] = _WaitingSequence(sequence)
        self.tokens += sequence.remaining
        self.prompt_tokens += sequence.prompt_length
        try:
            self._enter(waiting, self._policy.rank(sequence, now))
        except BaseException as error:  # ranks that cannot be compared with one another
            self._policy.rank_failed(error)
            self.rank_all(now)

    def remove(self, sequence: Sequence, now: float) -> None:
        """Remove a sequence."""
        waiting = self._waiting.pop(sequence.request.id)
        self.tokens -= sequence.remaining
        self.prompt_tokens -= sequence.prompt_length
        try:
            self._leave(waiting)
        except BaseException as error:
            self._policy.rank_failed(error)
            self.rank_all(now)

    def best(self, now: float) -> Sequence | None:
        """The best-ranked sequence; None where the queue is empty."""
        try:
            return self._look(now)
        except BaseException as error:
            self._policy.rank_failed(error)
            self.rank_all(now)
            return self._look(now)

    def refresh(self, now: float) -> None:
        """Rank a few sequences again, in turn; those whose rank got better move up."""
        try:
            for _ in range(min(_REFRESH, len(self._waiting))):
                name, waiting = next(iter(self._waiting.items()))
                self._waiting.move_to_end(name)
                rank = self._policy.rank(waiting.sequence, now)
                if waiting.item is None or rank < waiting.item[0]:
                    self._leave(waiting)
                    self._enter(waiting, rank)
        except BaseException as error:
            self._policy.rank_failed(error)
            self.rank_all(now)

    def use_policy(self, policy: GuardedPolicy, now: float) -> None:
        """Rank all sequences by another policy."""
        self._policy = policy
        self.rank_all(now)

    def rank_all(self, now: float) -> None:
        """Rank all sequences again."""
        self._tenants, self._heads = {}, []
        try:
            for waiting in self._waiting.values():
                waiting.item = waiting.head = None
                self._enter(waiting, self._policy.rank(waiting.sequence, now))
        except BaseException as error:
            if self._policy.by_arrival:
                raise
            self._policy.rank_failed(error)
            self.rank_all(now)

    def _enter(self, waiting: _WaitingSequence, rank: Any) -> None:
        items = self._tenants.setdefault(waiting.sequence.request.tenant, [])
        before = items[0] if items else None
        waiting.item = (rank, next(self._numbers), waiting)
        insort(items, waiting.item)
        if items[0] is not before:
            if before is not None:
                self._unlist(before[2])
            self._list(items[0])

    def _leave(self, waiting: _WaitingSequence) -> None:
        tenant = waiting.sequence.request.tenant
        items = self._tenants[tenant]
        _discard(items, waiting.item)
        waiting.item = None
        if waiting.head is not None:
            self._unlist(waiting)
            if items:
                self._list(items[0])
        if not items:
            del self._tenants[tenant]

    def _list(self, item: _Item) -> None:
        """Insert the head of a tenant into the list of heads, under the rank in its tenant's list."""
        item[2].head = item
        insort(self._heads, item)

    def _unlist(self, waiting: _WaitingSequence) -> None:
        _discard(self._heads, waiting.head)
        waiting.head = None

    def _look(self, now: float) -> Sequence | None:
        heads = self._heads
        looks = 0
        while heads:
            rank, number, waiting = heads[0]
            looks += 1
            fresh = self._policy.rank(waiting.sequence, now)
            if fresh == rank or looks > _LOOK:
                return waiting.sequence
            del heads[0]
            # The tenant's own list keeps the rank from when it was pushed: ranks of one tenant move together.
            waiting.head = (fresh, number, waiting)
            insort(heads, waiting.head)
        return None


def _discard(items: list[_Item], item: _Item | None) -> None:
    """Remove an item from a sorted list, also from one that unordered ranks (NaN) have put out of order."""
    if item is not None:
        at = bisect_left(items, item)
        if at == len(items) or items[at] is not item:
            at = next(at for at, other in enumerate(items) if other is item)
        del items[at]

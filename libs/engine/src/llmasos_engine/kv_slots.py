"""The engine's slots, the KV ledger that counts their tokens, and the prefix cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from llmasos_engine.ledger import KVLedger
from llmasos_engine.prefix_cache import CachedPrefix, PrefixCache, common_prefix, sharing
from llmasos_engine.sequence import Sequence
from llmasos_hookspecs import CapacityExceeded, Engine, EngineFailed
from llmasos_hookspecs.guarding.edge import in_words

_log = logging.getLogger("llmasos_engine")

#: Shortest prefix in tokens that is forked; a shorter one is recomputed.
_WORTH_A_FORK: Final = 8
#: Most running sequences that are compared for a common prefix.
_DONORS: Final = 32


class KVSlots:
    """Opens, forks, truncates and closes the engine's slots, and keeps the KV ledger consistent with them.

    Attributes:
        ledger: counts the tokens of every slot.
        prefixes: slots of finished sequences, kept for prompts with the same prefix.
        hits: prompt tokens that came from a cached or running sequence's prefix.
    """

    def __init__(self, engine: Engine, ledger: KVLedger | int, *, keep_prefixes: bool = True) -> None:
        """``ledger``: the ledger, or the capacity in tokens of a new one."""
        self.ledger: Final = KVLedger(ledger) if isinstance(ledger, int) else ledger
        self.prefixes: Final = PrefixCache()
        self.hits = 0
        self._engine = engine
        features = engine.info.features
        self._can_fork = "fork" in features and keep_prefixes
        self._keeps = keep_prefixes and "kv_cache" in features

    def has_room(self, tokens: int) -> bool:
        """Whether ``tokens`` tokens are free, or held by cached prefixes only."""
        return self.ledger.ensure(tokens - self.prefixes.tokens)

    def start(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Give ``sequence`` a slot that holds the longest prefix found in the prefix cache or in a running sequence. False where no slot is
        free."""
        match = self.prefixes.match(sharing(sequence.request), sequence.tokens, sequence.reusable) if self._keeps else None
        lent = self._donor(sequence, running) if self._can_fork else None
        slot: int | None = None
        if lent is not None and (match is None or lent[1] > match[1]):
            donor, shared = lent
            slot = self._fork(donor.slot, donor.computed, shared, None)
        if slot is None and match is not None:
            slot, shared = self._from_prefix(*match), match[1]
        if slot is None:
            slot, shared = self._new_slot(self._engine.open, None), 0
        if slot is None:
            return False
        self.hits += shared
        sequence.start(slot, shared)
        return True

    def reserve(self, slot: int, tokens: int) -> int:
        """Reserve up to ``tokens`` tokens for a step of ``slot``, evicting cached prefixes where necessary; returns how many."""
        if not self.ledger.reserve(slot, tokens):
            while not self.ledger.ensure(tokens) and self.evict():
                pass
            tokens = min(tokens, self.ledger.free)
            if tokens and not self.ledger.reserve(slot, tokens):
                return 0  # another model took the memory meanwhile
        return tokens

    def truncate(self, slot: int, length: int) -> None:
        self._engine.truncate(slot, length)
        self.ledger.truncate(slot, length)

    def leave(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take the slot of ``sequence``; with ``keep`` it goes to the prefix cache, else it is closed."""
        slot = sequence.slot
        self.ledger.release(slot)
        held = self.ledger.held(slot)
        if keep and self._keeps and held >= _WORTH_A_FORK:
            self.prefixes.add(slot, sharing(sequence.request), sequence.tokens[:held])
        else:
            self._close(slot)

    def evict(self, sparing: CachedPrefix | None = None) -> bool:
        """Evict one cached prefix; False where there is none."""
        slot = self.prefixes.evict(sparing)
        if slot is None:
            return False
        self._close(slot)
        return True

    def clear(self) -> None:
        """Forget all slots: the engine has lost them."""
        self.prefixes.clear()
        self.ledger.clear()

    def replace_engine(self, engine: Engine) -> None:
        """Continue with a new engine, which has no open slot."""
        self.clear()
        self._engine = engine

    def _from_prefix(self, prefix: CachedPrefix, shared: int) -> int | None:
        """Fork a cached prefix where it is long enough and a slot is free, else take over its slot; None where it was evicted meanwhile."""
        if prefix not in self.prefixes:
            return None
        continued = shared == len(prefix.tokens)
        if not continued and self._can_fork and shared >= _WORTH_A_FORK:
            self.prefixes.touch(prefix)
            slot = self._fork(prefix.slot, len(prefix.tokens), shared, prefix)
            if slot is not None:
                return slot
        self.prefixes.take(prefix)
        if not continued:
            self.truncate(prefix.slot, shared)
        return prefix.slot

    def _donor(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Sequence, int] | None:
        """The running sequence of the same tenant and adapter with the longest computed common prefix, and that length in tokens."""
        best: Sequence | None = None
        length, looked = _WORTH_A_FORK - 1, 0
        for other in running:
            if sharing(other.request) != sharing(sequence.request) or other.tokens[0] != sequence.tokens[0]:
                continue
            shared = common_prefix(other.tokens, sequence.tokens, min(other.computed, sequence.reusable))
            if shared > length:
                best, length = other, shared
            looked += 1
            if looked == _DONORS or length == sequence.reusable:
                break
        return None if best is None else (best, length)

    def _fork(self, source: int, held: int, keep: int, sparing: CachedPrefix | None) -> int | None:
        """A fork of ``source`` (``held`` tokens), truncated to ``keep`` tokens; None where no slot or no KV memory is free."""
        while not self.ledger.ensure(held):  # the engine copies the whole slot before it can be truncated
            if not self.evict(sparing):
                return None
        slot = self._new_slot(lambda: self._copy(source), sparing)
        if slot is not None:
            if not self.ledger.reserve(slot, held):  # another model took the memory meanwhile
                self._close(slot)
                return None
            self.ledger.commit(slot)
            if keep < held:
                self.truncate(slot, keep)
        return slot

    def _copy(self, source: int) -> int | None:
        """A fork of ``source``. After the engine failed to fork once, it is not asked again, and prefixes are recomputed instead."""
        try:
            return self._engine.fork(source)
        except (CapacityExceeded, EngineFailed):
            raise
        except Exception as error:
            self._can_fork = False
            _log.warning(
                "%s could not fork a slot (%s); it is not asked again, and prefixes are recomputed.", self._engine, in_words(error)
            )
            return None

    def _new_slot(self, make: Callable[[], int | None], sparing: CachedPrefix | None) -> int | None:
        while True:
            try:
                slot = make()
            except CapacityExceeded:
                if not self.evict(sparing):
                    return None
            else:
                if slot is not None:
                    self.ledger.open(slot)
                return slot

    def _close(self, slot: int) -> None:
        self._engine.close(slot)
        self.ledger.close(slot)

"""The engine's KV cache as core sees it: its slots, their ledger, and the prefixes that are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from llmasos.runtime.ledger import KVLedger
from llmasos.runtime.prefix_cache import CachedPrefix, PrefixCache, common_prefix
from llmasos.runtime.sequence import Sequence
from llmasos.system.edge import in_words
from llmasos_hookspecs import CapacityExceeded, Engine, EngineFailed

_log = logging.getLogger("llmasos.runtime")

#: A prefix shorter than this is computed again rather than copied.
_WORTH_A_FORK: Final = 8
#: Running sequences that are looked at for a common prefix.
_DONORS: Final = 32


class KVCache:
    """Opens, forks, truncates and closes slots, and keeps the ledger true to them.

    Attributes:
        hits: prompt tokens that were found computed.
    """

    def __init__(self, engine: Engine, ledger: KVLedger | int, *, keep_prefixes: bool = True) -> None:
        """``ledger``: counts the tokens, or the capacity of one of its own."""
        self.ledger: Final = KVLedger(ledger) if isinstance(ledger, int) else ledger
        self.prefixes: Final = PrefixCache()
        self.hits = 0
        self._engine = engine
        features = engine.info.features
        self._can_fork = "fork" in features and keep_prefixes
        self._keeps = keep_prefixes and "kv_cache" in features

    def has_room(self, tokens: int) -> bool:
        """Whether ``tokens`` are free, or held by nobody who runs."""
        return self.ledger.free + self.prefixes.tokens >= tokens or self.ledger.ensure(tokens - self.prefixes.tokens)

    def start(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Give ``sequence`` a slot, with as much of its prompt in it as can be found; False where the engine has no slot left."""
        match = self.prefixes.match(sequence.request.tenant, sequence.tokens, sequence.reusable) if self._keeps else None
        donor, shared = self._donor(sequence, running) if self._can_fork else (None, 0)
        slot: int | None = None
        if donor is not None and (match is None or shared > match[1]):
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
        """Set up to ``tokens`` aside for a step of ``slot``, forgetting kept prefixes for them; how many it could be."""
        if not self.ledger.reserve(slot, tokens):
            while not self.ledger.ensure(tokens) and self.evict():
                pass
            tokens = min(tokens, self.ledger.free)
            if tokens and not self.ledger.reserve(slot, tokens):
                return 0  # another model was faster
        return tokens

    def truncate(self, slot: int, length: int) -> None:
        self._engine.truncate(slot, length)
        self.ledger.truncate(slot, length)

    def leave(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take the slot of ``sequence``; what it holds is kept while there is room."""
        slot = sequence.slot
        self.ledger.release(slot)
        held = self.ledger.held(slot)
        if keep and self._keeps and held >= _WORTH_A_FORK:
            self.prefixes.add(slot, sequence.request.tenant, sequence.tokens[:held])
        else:
            self._close(slot)

    def evict(self, sparing: CachedPrefix | None = None) -> bool:
        """Forget one kept prefix; False where there is none."""
        slot = self.prefixes.evict(sparing)
        if slot is None:
            return False
        self._close(slot)
        return True

    def clear(self) -> None:
        """The engine's slots are gone."""
        self.prefixes.clear()
        self.ledger.clear()

    def replace_engine(self, engine: Engine) -> None:
        """Go on with a new engine, in which nothing is open."""
        self.clear()
        self._engine = engine

    def _from_prefix(self, prefix: CachedPrefix, shared: int) -> int | None:
        """Copy a kept prefix where it is worth it and a slot is left, else take its slot over; None where it is gone meanwhile."""
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

    def _donor(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Sequence | None, int]:
        """The running sequence of the same tenant that has computed most of the same tokens."""
        best, length, looked = None, _WORTH_A_FORK - 1, 0
        for other in running:
            if other.request.tenant != sequence.request.tenant or other.tokens[0] != sequence.tokens[0]:
                continue
            shared = common_prefix(other.tokens, sequence.tokens, min(other.computed, sequence.reusable))
            if shared > length:
                best, length = other, shared
            looked += 1
            if looked == _DONORS or length == sequence.reusable:
                break
        return best, length if best else 0

    def _fork(self, source: int, held: int, keep: int, sparing: CachedPrefix | None) -> int | None:
        """A copy of the first ``keep`` tokens of ``source``; None where no slot or no room is left."""
        while not self.ledger.ensure(held):  # the engine copies all of it before it can be cut
            if not self.evict(sparing):
                return None
        slot = self._new_slot(lambda: self._copy(source), sparing)
        if slot is not None:
            if not self.ledger.reserve(slot, held):  # another model was faster
                self._close(slot)
                return None
            self.ledger.commit(slot)
            if keep < held:
                self.truncate(slot, keep)
        return slot

    def _copy(self, source: int) -> int | None:
        """A fork of ``source``; None for good where the engine cannot, because whatever is copied can be computed as well."""
        try:
            return self._engine.fork(source)
        except (CapacityExceeded, EngineFailed):
            raise
        except Exception as error:
            self._can_fork = False
            _log.warning("%s could not fork a slot (%s), and is not asked again.", self._engine, in_words(error))
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

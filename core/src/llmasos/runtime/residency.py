"""Which models are in memory: leases, loading once, waiting, and whom to unload for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs

from llmasos.runtime.eviction import Candidate, choose_victims
from llmasos.runtime.memory import Account, Budget, MemoryLedger
from llmasos.runtime.place import Flight, Place, Resident
from llmasos.runtime.prediction import Need
from llmasos.system.sizes import size_in_words
from llmasos_hookspecs import LLMasOSError, ModelClosed, ResourceError

#: The need of a model that no budget bounds.
_NOTHING: Final = Need(weights=0, peak=0, kv_bytes_per_token=0, context_length=0, load_seconds=0.0)

#: Seconds for which loaded models go on taking requests though another one waits for their memory: at least, and at most. Between
#: them it is as long as the other one takes to load, so that switching never costs more than half of the time.
_PATIENCE: Final = (0.05, 2.0)


class Lease:
    """A model that is in memory and stays there until ``release``, with room for a request of so many tokens."""

    def __init__(self, residency: Residency, place: Place, tokens: int) -> None:
        self._residency = residency
        self._place = place
        self._tokens = tokens
        self._lock = threading.Lock()
        self._over = False

    def release(self) -> None:
        """It may go. Calling it again does nothing."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._residency._release(self._place, self._tokens)


@attrs.define(eq=False)
class _Waiter:
    """Somebody who wants a lease. ``blocked`` once memory was missing for it; ``trimmed`` are those whose spare KV was taken for it."""

    place: Place
    tokens: int
    since: float
    patience: float = _PATIENCE[0]
    blocked: bool = False
    trimmed: set[int] = attrs.field(factory=set)
    flight: Flight | None = None


class Residency:
    """Brings models into memory when they are used, and takes idle ones out when others need their place.

    Whoever finds no room waits; the longest-waiting one is served first, and after a while nobody who came later is let past it, so that
    the models in use become idle and can be unloaded. A wait holds nothing, so no two can wait for one another.
    """

    def __init__(self, memory: MemoryLedger | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.memory: Final = memory or MemoryLedger()
        self.memory.on_freed = self._wake
        self._changed = threading.Condition(self.memory.lock)
        self._clock = clock
        self._places: list[Place] = []
        self._queue: list[_Waiter] = []
        self._reaper: threading.Thread | None = None

    # Coming and going

    def add(self, name: str, resident: Resident, budgets: Iterable[Budget] = (), *, keep_alive: float | None = None) -> Place:
        """A place for a model, not loaded yet. It counts against each of ``budgets``."""
        place = Place(name, Account(name, tuple(budgets)), resident, keep_alive=keep_alive)
        with self._changed:
            self._places.append(place)
        return place

    def close(self, place: Place) -> None:
        """Take a model out for good, in use or not; whoever waits for it gets ``ModelClosed``."""
        with self._changed:
            while place.state in ("loading", "unloading"):
                self._changed.wait()
            if place.state == "closed":
                return
            loaded, place.state = place.state == "loaded", "closed"
            self._changed.notify_all()
        if loaded:
            place.resident.unload()
        with self._changed:
            self.memory.close(place.account)
            if place in self._places:
                self._places.remove(place)

    def unload(self, place: Place) -> bool:
        """Take a model out now, unless it is in use; False where it is, or was not in."""
        with self._changed:
            if place.state != "loaded" or place.leases:
                return False
            place.state = "unloading"
        self._finish_unloading(place)
        return True

    def lost(self, place: Place, load: int) -> None:
        """The engines that the load of that number brought ended by themselves: take the model out, in use or not. Its next use loads it
        again."""
        with self._changed:
            if place.state != "loaded" or place.loads != load:
                return
            place.state = "unloading"
        self._finish_unloading(place)

    def places(self) -> list[Place]:
        """All that are not closed."""
        with self._changed:
            return list(self._places)

    # Leases

    @contextmanager
    def leased(self, place: Place, tokens: int = 0) -> Iterator[None]:
        """A lease for as long as the ``with`` block runs."""
        lease = self.acquire(place, tokens)
        try:
            yield
        finally:
            lease.release()

    def acquire(self, place: Place, tokens: int = 0) -> Lease:
        """A lease on a model with KV room for ``tokens``; loads it, and waits for memory where need be.

        Raises:
            ResourceError: it can never fit beside what is pinned.
            ModelClosed: it was closed.
            LLMasOSError: what loading it raised.
        """
        waiter = _Waiter(place, tokens, self._clock())
        with self._changed:
            self._queue.append(waiter)
        try:
            while True:
                self._predict(place)
                with self._changed:
                    step = self._next(waiter)
                if isinstance(step, Lease):
                    return step
                if step is not None:
                    step()
        finally:
            with self._changed:
                self._queue.remove(waiter)
                self._note_scarcity()
                self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Requests and loads that wait for memory."""
        with self._changed:
            return sum(waiter.blocked for waiter in self._queue)

    def settle(self, budget: Budget) -> None:
        """A budget was changed: unload idle models while more is used than it allows, and look again at what waits."""
        with self._changed:
            for place in self._places:
                if place.state == "not loaded":
                    place.need = None  # it may not have been asked for while nothing bounded it
        while True:
            with self._changed:
                self._changed.notify_all()
                idle = [place for place in self._sharing((budget,)) if place.state == "loaded" and not place.leases and not place.pinned]
                if budget.free >= 0 or not idle:
                    return
                victims = self._victims((budget,), 0, None) or idle
                for victim in victims:
                    victim.state = "unloading"
            self._evict(victims)

    def would_evict(self, budgets: Iterable[Budget], needed: int, *, sparing: Place | None = None) -> tuple[float, list[Place]]:
        """Bytes that are missing for ``needed`` more, and who would be unloaded for them now."""
        with self._changed:
            missing = self.memory.missing(budgets, needed)
            return missing, self._victims(budgets, needed, sparing)

    # Decisions, with the lock held

    def _next(self, waiter: _Waiter) -> Lease | Callable[[], None] | None:
        """The lease, or what has to be done for it first, without the lock; None after a wait."""
        place = waiter.place
        if place.state == "closed":
            raise ModelClosed(f"The model {place.name} is closed; load it again to use it.")
        if waiter.flight is not None and waiter.flight.error is not None:
            raise waiter.flight.error.with_traceback(None)
        waiter.flight = place.flight
        if place.state in ("loading", "unloading"):
            self._changed.wait()
            return None
        need = place.need
        if need is None:  # it was unloaded a moment ago, and the need is looked up again
            return None
        loaded = place.state == "loaded"
        needed = place.account.growth(waiter.tokens) if loaded else need.weights + waiter.tokens * need.kv_bytes_per_token * need.copies
        if not self._passed_over(waiter, queued=not loaded):
            if loaded:
                if self.memory.claim(place.account, waiter.tokens):
                    return self._lend(waiter)
            elif self._reserve(place, need, needed):
                return lambda: self._load(place)
            self._check_possible(place, need.weights + waiter.tokens * need.kv_bytes_per_token * need.copies)
            waiter.blocked, waiter.patience = True, min(max(_PATIENCE[0], need.load_seconds), _PATIENCE[1])
            self._note_scarcity()
            if not self._passed_over(waiter, queued=True) and (step := self._free(waiter, needed)) is not None:
                return step
        self._changed.wait()
        waiter.trimmed.clear()
        return None

    def _passed_over(self, waiter: _Waiter, *, queued: bool) -> bool:
        """Whether somebody who has waited longer for memory comes first: always where this one has to queue for memory too, else once
        the other's patience is over."""
        budgets = waiter.place.account.bounds
        for other in self._queue:
            if other is waiter:
                return False
            if not other.blocked or not any(budget in other.place.account.bounds for budget in budgets):
                continue
            if queued or (not waiter.place.pinned and waiter.since - other.since > other.patience):
                return True
        return False

    def _reserve(self, place: Place, need: Need, needed: int) -> bool:
        """Set memory aside for loading: for its peak where that fits, else for the weights and the promised KV."""
        free = min((budget.free for budget in place.account.bounds), default=float("inf"))
        if needed > free:
            return False
        self.memory.set_weights(place.account, int(min(max(need.peak, needed), free)), 0)
        place.state, place.flight = "loading", Flight()
        return True

    def _check_possible(self, place: Place, needed: int) -> None:
        """Raise where waiting would not help: all others gone but those that are pinned, it would not fit."""
        for budget in place.account.bounds:
            pinned = [other for other in self._sharing((budget,)) if other is not place and other.pinned and other.state != "not loaded"]
            held = sum(other.account.weights for other in pinned)
            if needed + held > budget.most:
                beside = f" beside the pinned {', '.join(other.name for other in pinned)}" if pinned else ""
                raise ResourceError(
                    f"The model {place.name} needs {size_in_words(needed)} for its weights and this request, and {budget.name} leaves "
                    f"{size_in_words(budget.most - held)}{beside}; raise it, ask for fewer tokens, or use a smaller or quantised model."
                )

    def _free(self, waiter: _Waiter, needed: float) -> Callable[[], None] | None:
        """What would free memory for the first of those who wait; None where nothing can go now."""
        budgets = waiter.place.account.bounds
        if self.memory.missing(budgets, needed) <= 0:
            return None
        spare = [
            place
            for place in self._sharing(budgets)
            if place.state == "loaded"
            and id(place) not in waiter.trimmed
            and any(s.drawn > place.account.floor for s in place.account.shares)
        ]
        if spare:
            chosen = min(spare, key=lambda place: (place.leases > 0, place.last_used))
            waiter.trimmed.add(id(chosen))
            # Its lease keeps it from being unloaded by another thread meanwhile.
            chosen.leases += 1
            return lambda: self._trim(chosen)
        victims = self._victims(budgets, needed, waiter.place)
        for victim in victims:
            victim.state = "unloading"
        if not victims:
            return None
        return lambda: self._evict(victims)

    def _victims(self, budgets: Iterable[Budget], needed: float, sparing: Place | None) -> list[Place]:
        """The idle models whose loss costs least and whose memory is enough in every budget; empty where it is not."""
        now = self._clock()
        found: list[Place] = []
        for budget in budgets:
            missing = needed - budget.free - sum(place.account.bytes for place in found if budget in place.account.budgets)
            candidates = [
                Candidate(place, place.account.bytes, (place.need.load_seconds if place.need else 0.0) / max(now - place.last_used, 1e-3))
                for place in self._sharing((budget,))
                if place is not sparing and place not in found and place.state == "loaded" and not place.leases and not place.pinned
            ]
            chosen = choose_victims(candidates, missing)
            if chosen is None:
                return []
            found += chosen
        return found

    def _sharing(self, budgets: Iterable[Budget]) -> list[Place]:
        wanted = list(budgets)
        return [place for place in self._places if any(budget in place.account.bounds for budget in wanted)]

    def _lend(self, waiter: _Waiter) -> Lease:
        waiter.place.leases += 1
        waiter.place.last_used = self._clock()
        return Lease(self, waiter.place, waiter.tokens)

    def _note_scarcity(self) -> None:
        self.memory.scarce = any(waiter.blocked for waiter in self._queue)

    # Actions, without the lock

    def _predict(self, place: Place) -> None:
        if place.need is None and place.state != "closed":
            # Unbounded, nobody has to make room, and the digest of large files is not worth the figures.
            need = place.resident.need() if place.account.bounds else _NOTHING
            with self._changed:
                if place.need is None:
                    place.need = need

    def _load(self, place: Place) -> None:
        try:
            found = place.resident.load(place.account)
        except BaseException as error:
            self._abandon(place, error if isinstance(error, LLMasOSError) else None)
            raise
        with self._changed:
            place.need = found
            fits = self.memory.set_weights(place.account, found.weights, found.kv_bytes_per_token)
            if fits:
                place.state, place.flight = "loaded", None
                place.last_used = self._clock()
                place.loads += 1
            self._changed.notify_all()
        if not fits:  # it is larger than was predicted; now its size is known, and room is made for that
            place.resident.unload()
            self._abandon(place, None)

    def _abandon(self, place: Place, error: LLMasOSError | None) -> None:
        with self._changed:
            if place.flight is not None:
                place.flight.error = error
            place.flight, place.state = None, "not loaded"
            self.memory.close(place.account)
            self._changed.notify_all()

    def _trim(self, place: Place) -> None:
        try:
            place.resident.trim()
        finally:
            with self._changed:
                place.leases -= 1
                self._changed.notify_all()

    def _evict(self, victims: list[Place]) -> None:
        with ExitStack() as stack:  # all of them, whatever one of them raises
            for victim in victims:
                victim.evictions += 1
                stack.callback(self._finish_unloading, victim)

    def _finish_unloading(self, place: Place) -> None:
        try:
            place.resident.unload()
        finally:
            with self._changed:
                place.state = "not loaded"
                self.memory.close(place.account)
                self._changed.notify_all()

    def _release(self, place: Place, tokens: int) -> None:
        with self._changed:
            self.memory.end_claim(place.account, tokens)
            place.leases -= 1
            place.last_used = self._clock()
            if self._queue or place.leases == 0:
                self._changed.notify_all()
        if place.keep_alive is not None:
            self._start_reaper()

    def _wake(self) -> None:
        with self._changed:
            if self._queue:
                self._changed.notify_all()

    # Keep-alive

    def _start_reaper(self) -> None:
        with self._changed:
            if self._reaper is None or not self._reaper.is_alive():
                self._reaper = threading.Thread(target=self._reap, name="llmasos-keep-alive", daemon=True)
                self._reaper.start()

    def _reap(self) -> None:
        """Unload what was not used for longer than its keep-alive; ends when nothing is left that will be."""
        while True:
            with self._changed:
                due = {
                    id(place): (place.last_used + place.keep_alive, place)
                    for place in self._places
                    if place.keep_alive is not None and place.state == "loaded" and not place.pinned
                }
                now = self._clock()
                over = [place for when, place in due.values() if when <= now and not place.leases]
                if not due:
                    self._reaper = None
                    return
                if not over:
                    idle = [when for when, place in due.values() if not place.leases]
                    self._changed.wait(max(0.01, min(idle) - now) if idle else None)
                    continue
            for place in over:
                self.unload(place)

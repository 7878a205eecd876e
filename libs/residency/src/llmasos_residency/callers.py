"""Callers that wait for a model or for memory: those on a thread of their own, and those that no thread waits for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from llmasos_hookspecs.guarding.changes import Changes
from llmasos_residency.lease import Lease
from llmasos_residency.tracked_model import PendingLoad, TrackedModel

#: Shortest and longest time in seconds that loaded models still accept requests while another model waits for their memory. Within these
#: bounds it is the load time of the waiting model, so that loading never takes more than half of the time.
PATIENCE: Final = (0.05, 2.0)


@attrs.define(eq=False)
class Waiter:
    """A caller that waits for a lease.

    Attributes:
        since: seconds of the clock when it began to wait.
        patience: seconds that it lets later callers use loaded models.
        blocked: memory was missing for it.
        trimmed: ids of the models whose spare KV memory was freed for it.
        pending_load: the load that it waits for.
        begun: the load that it has begun itself.
        trimming: the model that it keeps in memory while that one's spare KV memory is freed.
        lease: the lease, once it is granted.
        grant, refuse: one of them is called once, with the lease or with what ended the wait; for callers that no thread waits for.
        acting: a thread does what must happen before it can go on.
    """

    model: TrackedModel
    tokens: int
    since: float
    patience: float = PATIENCE[0]
    blocked: bool = False
    trimmed: set[int] = attrs.field(factory=set)
    pending_load: PendingLoad | None = None
    begun: PendingLoad | None = None
    trimming: TrackedModel | None = None
    lease: Lease | None = None
    grant: Callable[[Lease], object] = lambda _: None
    refuse: Callable[[BaseException], object] = lambda _: None
    acting: bool = False


class WaitQueue(Protocol):
    """The residency, as those that advance its callers see it."""

    @property
    def queue(self) -> list[Waiter]:
        """The callers that wait, in their order."""
        ...

    @property
    def changes(self) -> Changes:
        """The lock, and what is told where a caller that waits may go on."""
        ...

    def predict(self, model: TrackedModel) -> None:
        """Find out what memory a load of the model takes; without the lock."""
        ...

    def advance(self, waiter: Waiter) -> Callable[[], object] | None:
        """Advance a caller by one decision; with the lock held. Returns what must be done without it; None: it waits, or has its lease."""
        ...

    def undo(self, waiter: Waiter, error: BaseException) -> None:
        """End what a caller has begun and what it was granted."""
        ...

    def leave(self, waiter: Waiter) -> None:
        """Take a caller out of the queue."""
        ...


class Callers:
    """Advances the callers that no thread waits for, however many they are: one thread decides, and each load, trim or eviction that must
    happen first has a thread of its own. The thread ends when nobody waits."""

    def __init__(self, residency: WaitQueue) -> None:
        self._residency = residency
        self._waiters: list[Waiter] = []
        self._thread: threading.Thread | None = None

    def add(self, waiter: Waiter) -> None:
        """Have ``waiter.grant`` or ``waiter.refuse`` called, on another thread."""
        with self._residency.changes.lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="llmasos-residency", daemon=True)
                self._thread.start()
            self._residency.queue.append(waiter)
            self._waiters.append(waiter)
            self._residency.changes.tell()

    def give_up(self, waiter: Waiter) -> None:
        """The caller does not wait any more: it leaves the queue, and is told nothing. What is being done for it is done to its end."""
        self._remove(waiter)

    def _run(self) -> None:
        changes = self._residency.changes
        while True:
            told: list[Callable[[], object]] = []
            with changes.lock:
                actions = [(waiter, action) for waiter in list(self._waiters) if (action := self._next(waiter, told)) is not None]
                if not self._waiters and not told:
                    self._thread = None
                    return
                changed = None if told or actions else changes.next(None)
            if changed is not None:
                changed()
                for waiter in list(self._waiters):
                    waiter.trimmed.clear()
            for tell in told:
                tell()
            for waiter, action in actions:
                self._begin(waiter, action)

    def _next(self, waiter: Waiter, told: list[Callable[[], object]]) -> Callable[[], object] | None:
        """What must be done for a waiter without the lock, which is held here; None where it waits, or has ended, which ``told`` tells."""
        if waiter.acting:
            return None
        residency, model = self._residency, waiter.model
        if model.need is None and model.state != "closed":
            if any(other.acting and other.model is model for other in self._waiters):
                return None  # the prediction for another one is its own too
            waiter.acting = True
            return lambda: residency.predict(model)
        try:
            action = residency.advance(waiter)
        except BaseException as error:
            self._remove(waiter)
            told.append(functools.partial(waiter.refuse, error))
            return None
        if waiter.lease is not None:
            self._remove(waiter)
            told.append(functools.partial(waiter.grant, waiter.lease))
            return None
        waiter.acting = action is not None
        return action

    def _begin(self, waiter: Waiter, action: Callable[[], object]) -> None:
        try:
            threading.Thread(target=self._act, args=(waiter, action), name="llmasos-residency-work", daemon=True).start()
        except RuntimeError:  # the system has no more threads; what was decided must be done all the same
            self._act(waiter, action)

    def _act(self, waiter: Waiter, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            self._residency.undo(waiter, error)
            with self._residency.changes.lock:
                # A model whose need cannot be predicted cannot be loaded for any of its callers.
                unknown = waiter.model.need is None
                failed = [each for each in self._waiters if each is waiter or (unknown and each.model is waiter.model)]
                for each in failed:
                    self._remove(each)
            for each in failed:
                each.refuse(error)
        finally:
            with self._residency.changes.lock:
                waiter.acting = False
                self._residency.changes.tell()

    def _remove(self, waiter: Waiter) -> None:
        with self._residency.changes.lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._residency.leave(waiter)

"""Which models are in memory: leases, one load for many callers, the queue for memory, and eviction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from llmasos_hookspecs import LLMasOSError, ModelClosed
from llmasos_residency.callers import PATIENCE, Callers, Waiter
from llmasos_residency.decisions import Decisions
from llmasos_residency.handover import Handover
from llmasos_residency.keep_alive import KeepAlive
from llmasos_residency.lease import Lease
from llmasos_residency.memory import Account, Budget, MemoryLedger
from llmasos_residency.prediction import Need
from llmasos_residency.tracked_model import Resident, TrackedModel

_log = logging.getLogger("llmasos_engine")

#: The need of a model that no budget bounds.
_NOTHING: Final = Need(weights=0, peak=0, kv_bytes_per_token=0, context_length=0, load_seconds=0.0)

#: Seconds that closing a model waits for a load in progress.
_CLOSE_SECONDS: Final = 10.0


class Residency:
    """Loads models when they are used, and unloads idle ones when other models need their memory.

    A caller that finds no memory waits in a first-come, first-served queue. Once its patience is over, no later caller gets a lease before
    it, so that the models in use become idle and can be unloaded. A waiting caller holds no memory, so there is no deadlock.

    Attributes:
        memory: the ledger of all models.
        changes: the lock, and what is told where a caller that waits may go on. For ``Callers`` and ``KeepAlive``.
        queue: the callers that wait, in their order. For ``Callers``.
    """

    def __init__(
        self,
        memory: MemoryLedger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        close_timeout: float = _CLOSE_SECONDS,
    ) -> None:
        self.memory: Final = memory or MemoryLedger()
        self.memory.on_freed = self._wake
        self.changes: Final = self.memory.changes
        self._clock = clock
        self._close_timeout = close_timeout
        self._decisions: Final = Decisions(self.memory, clock)
        self.queue: Final = self._decisions.queue
        self._callers = Callers(self)
        self._keep_alive: Final = KeepAlive(self, clock)

    # Adding and removing models

    def add(self, name: str, resident: Resident, budgets: Iterable[Budget] = (), *, keep_alive: float | None = None) -> TrackedModel:
        """Add a model, without loading it. Its memory counts against each of ``budgets``."""
        model = TrackedModel(name, Account(name, tuple(budgets)), resident, keep_alive=keep_alive)
        with self.changes.lock:
            self._decisions.models.append(model)
        return model

    def close(self, model: TrackedModel) -> None:
        """Remove a model for good, in use or not; callers that wait for it get ``ModelClosed``.

        A load in progress is waited for no longer than ``close_timeout`` seconds; what it makes after that is freed when it is made.
        """
        ended = self.changes.wait_for(lambda: model.state not in ("loading", "unloading"), self._close_timeout)
        with self.changes.lock:
            if not ended:
                _log.error("The model %s was closed while it was %s; its memory is not free.", model.name, model.state)
            if model.state == "closed":
                return
            loaded, model.state = model.state == "loaded", "closed"
            self.changes.tell()
        if loaded:
            model.resident.unload()
        with self.changes.lock:
            self.memory.close(model.account)
            if model in self._decisions.models:
                self._decisions.models.remove(model)

    def unload(self, model: TrackedModel) -> bool:
        """Unload a model now; False where it is in use or not loaded."""
        return bool(self._unload_chosen(lambda: [model] if model.state == "loaded" and not model.leases else []))

    def lost(self, model: TrackedModel, load: int) -> None:
        """The engines of load number ``load`` have failed: unload the model, in use or not. Its next use loads it again.

        Waits where they failed before the load had ended.
        """
        self.changes.wait_for(lambda: model.state != "loading")
        self._unload_chosen(lambda: [model] if model.state == "loaded" and model.loads == load else [])

    def models(self) -> list[TrackedModel]:
        """All models that are not closed."""
        with self.changes.lock:
            return list(self._decisions.models)

    # Leases

    @contextmanager
    def leased(self, model: TrackedModel, tokens: int = 0) -> Iterator[None]:
        """Hold a lease while the ``with`` block runs."""
        waiter = Waiter(model, tokens, self._clock())
        try:
            lease = self._obtain(waiter)
            yield
            lease.release()
        except BaseException as error:
            self.undo(waiter, error)
            raise

    def acquire(self, model: TrackedModel, tokens: int = 0, *, look: Callable[[], object] = lambda: None) -> Lease:
        """A lease on a model with KV memory for ``tokens`` tokens; loads the model and waits for memory where necessary.

        ``look`` is called now and then, and ends the wait by raising.

        Raises:
            ResourceError: the model cannot fit, even with all models unloaded that are not pinned.
            ModelClosed: the model was closed.
            LLMasOSError: the error of the load.
        """
        waiter = Waiter(model, tokens, self._clock())
        try:
            return self._obtain(waiter, look)
        except BaseException as error:
            self.undo(waiter, error)
            raise

    def _obtain(self, waiter: Waiter, look: Callable[[], object] = lambda: None) -> Lease:
        """The waiter's lease. Where this raises, ``undo`` must follow."""
        with self.changes.lock:
            self.queue.append(waiter)
        while waiter.lease is None:
            look()
            self.predict(waiter.model)
            with self.changes.lock:
                action = self.advance(waiter) or self._change(waiter)
            action()
        self.leave(waiter)
        return waiter.lease

    def _change(self, waiter: Waiter) -> Callable[[], object]:
        """The action that waits for a change."""
        changed = self.changes.next()
        return lambda: waiter.trimmed.clear() if changed() else None

    def acquire_now(self, model: TrackedModel, tokens: int = 0) -> Lease | None:
        """As ``acquire`` where that takes no time; None where the model must be loaded or memory freed first, or others wait for it."""
        with self.changes.lock:
            if model.state != "loaded":
                return None
            waiter = Waiter(model, tokens, self._clock())
            if self._decisions.passed_over(waiter, queued=False) or not self.memory.claim(model.account, tokens):
                return None
            return self._grant(waiter)

    async def acquire_async(self, model: TrackedModel, tokens: int = 0) -> Lease:
        """``acquire`` for an event loop: waiting takes no thread. A task that is cancelled leaves the queue at once."""
        handover: Handover[Lease] = Handover(Lease.release)
        waiter = Waiter(model, tokens, self._clock(), grant=handover.succeed, refuse=handover.fail)
        self._callers.add(waiter)
        try:
            return await handover.take()
        finally:
            self._callers.give_up(waiter)

    def leave(self, waiter: Waiter) -> None:
        """A caller waits no more."""
        with self.changes.lock:
            self.queue[:] = [each for each in self.queue if each is not waiter]
            self._note_scarcity()
            self.changes.tell()

    @property
    def waiting(self) -> int:
        """Count of callers that wait for memory."""
        with self.changes.lock:
            return sum(waiter.blocked for waiter in self.queue)

    def settle(self, budget: Budget) -> None:
        """Apply a changed budget: unload idle models while more memory is used than it allows, and wake the waiting callers."""
        with self.changes.lock:
            for model in self._decisions.models:
                if model.state == "not loaded":
                    model.need = None  # without a budget it was not predicted

        def idle() -> list[TrackedModel]:
            self.changes.tell()
            found = [
                model for model in self._decisions.sharing((budget,)) if model.state == "loaded" and not model.leases and not model.pinned
            ]
            return [] if budget.free >= 0 else self._decisions.victims((budget,), 0, None) or found

        while victims := self._unload_chosen(idle):
            for victim in victims:
                victim.evictions += 1

    def would_evict(
        self, budgets: Iterable[Budget], needed: int, *, sparing: TrackedModel | None = None
    ) -> tuple[float, list[TrackedModel]]:
        """Bytes that are missing to commit ``needed`` more, and the models that would be unloaded for them now."""
        with self.changes.lock:
            missing = self.memory.missing(budgets, needed)
            return missing, self._decisions.victims(budgets, needed, sparing)

    # What a caller needs next, with the lock held

    def advance(self, waiter: Waiter) -> Callable[[], object] | None:
        """Advance a caller by one decision: grant its lease, or choose what must happen first (a load, a trim, an eviction).

        Returns that action, to be run without the lock, which does nothing where the lease was granted; None where the caller must wait for
        a change. Where the action raises, ``undo`` must follow.
        """
        model = waiter.model
        if model.state == "closed":
            raise ModelClosed(f"The model {model.name} is closed; load it again to use it.")
        if waiter.pending_load is not None and waiter.pending_load.error is not None:
            raise waiter.pending_load.error.with_traceback(None)
        waiter.pending_load = model.pending_load
        if model.state in ("loading", "unloading"):
            return None
        need = model.need
        if need is None:  # ``settle`` reset it a moment ago; ``acquire`` predicts it again
            return _no_action
        loaded = model.state == "loaded"
        needed = model.account.growth(waiter.tokens) if loaded else need.weights + waiter.tokens * need.kv_bytes_per_token * need.copies
        if not self._decisions.passed_over(waiter, queued=not loaded):
            if loaded:
                if self.memory.claim(model.account, waiter.tokens):
                    waiter.lease = self._grant(waiter)
                    return _no_action
            elif self._decisions.reserve(waiter, need, needed):
                return lambda: self._load(waiter)
            self._decisions.check_possible(model, need.weights + waiter.tokens * need.kv_bytes_per_token * need.copies)
            waiter.blocked, waiter.patience = True, min(max(PATIENCE[0], need.load_seconds), PATIENCE[1])
            self._note_scarcity()
            if not self._decisions.passed_over(waiter, queued=True) and (action := self._freeing_action(waiter, needed)) is not None:
                return action
        return None

    def _freeing_action(self, waiter: Waiter, needed: float) -> Callable[[], object] | None:
        """The action that frees memory for the first caller of the queue: trim spare KV memory, else evict idle models; None where neither
        is possible now."""
        budgets = waiter.model.account.bounds
        if self.memory.missing(budgets, needed) <= 0:
            return None
        if (chosen := self._decisions.spare(waiter)) is not None:
            waiter.trimmed.add(id(chosen))
            # The lease keeps other threads from unloading it during the trim.
            chosen.leases += 1
            waiter.trimming = chosen
            return lambda: self._trim(waiter)
        if not self._decisions.victims(budgets, needed, waiter.model):
            return None
        return lambda: self._evict(waiter, needed)

    def _grant(self, waiter: Waiter) -> Lease:
        waiter.model.leases += 1
        waiter.model.last_used = self._clock()
        return Lease(waiter.model, waiter.tokens, self._release)

    def _note_scarcity(self) -> None:
        self.memory.scarce = any(waiter.blocked for waiter in self.queue)

    # Actions, without the lock

    def predict(self, model: TrackedModel) -> None:
        if model.need is None and model.state != "closed":
            # Without a budget nothing is ever evicted, so a prediction is not worth the digest of large files that it costs.
            need = model.resident.need() if model.account.bounds else _NOTHING
            with self.changes.lock:
                if model.need is None:
                    model.need = need

    def _load(self, waiter: Waiter) -> None:
        model = waiter.model
        try:
            need = model.resident.load(model.account)
        except LLMasOSError as error:
            self._abandon(waiter, error)
            raise
        with self.changes.lock:
            closed = model.state == "closed"
            model.need = need
            fits = not closed and self.memory.set_weights(model.account, need.weights, need.kv_bytes_per_token)
            if fits:
                model.state, model.pending_load = "loaded", None
                model.last_used = self._clock()
                model.loads += 1
            self.changes.tell()
        if not fits:  # larger than predicted: unload it, and queue for the memory that it really needs
            self._abandon(waiter, None)

    def _abandon(self, waiter: Waiter, error: LLMasOSError | None) -> None:
        """End the load that ``waiter`` has begun, unless it has ended."""
        model = waiter.model
        if waiter.begun is None or model.pending_load is not waiter.begun:
            return
        try:
            model.resident.unload()
        finally:
            with self.changes.lock:
                waiter.begun.error, model.pending_load = error, None
                _not_loaded(model)
                self.memory.close(model.account)
                self.changes.tell()

    def _trim(self, waiter: Waiter) -> None:
        try:
            if waiter.trimming is not None:
                waiter.trimming.resident.trim()
        finally:
            self._end_trim(waiter)

    def _end_trim(self, waiter: Waiter) -> None:
        with self.changes.lock:
            chosen, waiter.trimming = waiter.trimming, None
            if chosen is not None:
                chosen.leases -= 1
                self.changes.tell()

    def _evict(self, waiter: Waiter, needed: float) -> list[TrackedModel]:
        """Unload the idle models that are in the waiter's way now, and give them too."""
        victims = self._unload_chosen(lambda: self._decisions.victims(waiter.model.account.bounds, needed, waiter.model))
        for victim in victims:
            victim.evictions += 1
        return victims

    def undo(self, waiter: Waiter, error: BaseException) -> None:
        """End what a caller has begun and what it was granted, so that nobody waits for that. ``error`` may be a Ctrl-C that struck
        anywhere, and the ledger itself."""
        with ExitStack() as stack:  # all of it, even where one raises
            stack.callback(self.leave, waiter)
            stack.callback(self._abandon, waiter, None)
            stack.callback(self._end_trim, waiter)
            if not isinstance(error, Exception):
                stack.callback(self._recount)
            if waiter.lease is not None:
                stack.callback(waiter.lease.release)

    def _recount(self) -> None:
        with self.changes.lock:
            for budget in {id(each): each for model in self._decisions.models for each in model.account.budgets}.values():
                budget.used = sum(model.account.bytes for model in self._decisions.models if budget in model.account.budgets)

    def _unload_chosen(self, choose: Callable[[], list[TrackedModel]]) -> list[TrackedModel]:
        """Unload the models that ``choose`` gives with the lock held, and give them too."""
        left: list[TrackedModel] = []
        try:
            with self.changes.lock:
                chosen = choose()
                for model in chosen:
                    left.append(model)
                    model.state = "unloading"
            self._finish_unloading(left)
        except BaseException:
            self._finish_unloading(left)
            raise
        return chosen

    def _finish_unloading(self, left: list[TrackedModel]) -> None:
        """Unload all of ``left``, even where one raises, and empty it."""
        try:
            while left:
                self._unload_last(left)
        except BaseException:
            self._finish_unloading(left)
            raise

    def _unload_last(self, left: list[TrackedModel]) -> None:
        model = left[-1]
        failure: Exception | None = None
        try:
            if model.state != "loaded":  # else interrupted before it was chosen
                model.resident.unload()
        except Exception as error:  # what interrupts it leaves it in the list
            failure = error
        with self.changes.lock:
            if model.state != "loaded":
                self.memory.close(model.account)
            self.changes.tell()
            # Nothing is called between these two, so that Ctrl-C cannot come between them.
            if model.state == "unloading":
                model.state = "not loaded"
            left.pop()
        if failure is not None:
            raise failure

    def _release(self, lease: Lease) -> None:
        model = lease.model
        with self.changes.lock:
            if lease.over:
                return
            self.changes.tell()
            model.last_used = self._clock()
            # Nothing is called between these two, so that Ctrl-C cannot come between them.
            model.leases -= 1
            lease.over = True
            self.memory.end_claim(model.account, lease.tokens)
        if model.keep_alive is not None:
            self._keep_alive.start()

    def _wake(self) -> None:
        with self.changes.lock:
            if self.queue:
                self.changes.tell()


def _not_loaded(model: TrackedModel) -> None:
    """A model's engines are gone; one that was closed meanwhile stays closed."""
    if model.state != "closed":
        model.state = "not loaded"


def _no_action() -> None:
    """The action where there is nothing to do without the lock."""

"""What the residency decides: who is served first, whether memory suffices, and what to free for it. All of it with the lock held."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from llmasos_hookspecs import ResourceError
from llmasos_hookspecs.sizes import size_in_words
from llmasos_residency.callers import Waiter
from llmasos_residency.eviction import Candidate, choose_victims
from llmasos_residency.memory import Budget, MemoryLedger
from llmasos_residency.prediction import Need
from llmasos_residency.tracked_model import PendingLoad, TrackedModel


@attrs.define(eq=False)
class Decisions:
    """Decides for the callers that wait, by what is known of all models.

    Attributes:
        memory: the ledger of all models.
        clock: in seconds.
        models: those that are not closed.
        queue: the callers that wait, in their order.
    """

    memory: MemoryLedger
    clock: Callable[[], float]
    models: list[TrackedModel] = attrs.field(factory=list)
    queue: list[Waiter] = attrs.field(factory=list)

    def passed_over(self, waiter: Waiter, *, queued: bool) -> bool:
        """Whether a caller that has waited longer for the same memory is served before this one: always where this one needs memory too
        (``queued``), else once the other's patience is over."""
        budgets = waiter.model.account.bounds
        for other in self.queue:
            if other is waiter:
                return False
            if not other.blocked or not any(budget in other.model.account.bounds for budget in budgets):
                continue
            if queued or (not waiter.model.pinned and waiter.since - other.since > other.patience):
                return True
        return False

    def reserve(self, waiter: Waiter, need: Need, needed: int) -> bool:
        """Reserve memory for a load: its peak where that fits, else the weights and the claimed KV. False where these do not fit."""
        model = waiter.model
        free = min((budget.free for budget in model.account.bounds), default=float("inf"))
        if needed > free:
            return False
        waiter.begun = model.pending_load = PendingLoad()
        self.memory.set_weights(model.account, int(min(max(need.peak, needed), free)), 0)
        model.state = "loading"
        return True

    def check_possible(self, model: TrackedModel, needed: int) -> None:
        """Raise ``ResourceError`` where the model could not fit even if every model that is not pinned were unloaded."""
        for budget in model.account.bounds:
            pinned = [other for other in self.sharing((budget,)) if other is not model and other.pinned and other.state != "not loaded"]
            held = sum(other.account.weights for other in pinned)
            if needed + held > budget.most:
                beside = f" beside the pinned {', '.join(other.name for other in pinned)}" if pinned else ""
                raise ResourceError(
                    f"The model {model.name} needs {size_in_words(needed)} for its weights and this request, and {budget.name} leaves "
                    f"{size_in_words(budget.most - held)}{beside}; raise it, ask for fewer tokens, or use a smaller or quantised model."
                )

    def spare(self, waiter: Waiter) -> TrackedModel | None:
        """The model whose spare KV memory to free for a caller; None where no other has any that was not freed for it already."""
        spare = [
            model
            for model in self.sharing(waiter.model.account.bounds)
            if model.state == "loaded"
            and id(model) not in waiter.trimmed
            and any(share.drawn > model.account.floor for share in model.account.shares)
        ]
        return min(spare, key=lambda model: (model.leases > 0, model.last_used), default=None)

    def victims(self, budgets: Iterable[Budget], needed: float, sparing: TrackedModel | None) -> list[TrackedModel]:
        """The idle models to evict: those cheapest to reload that free enough memory in every budget; empty where no choice does."""
        now = self.clock()
        victims: list[TrackedModel] = []
        for budget in budgets:
            missing = needed - budget.free - sum(model.account.bytes for model in victims if budget in model.account.budgets)
            candidates = [
                Candidate(model, model.account.bytes, (model.need.load_seconds if model.need else 0.0) / max(now - model.last_used, 1e-3))
                for model in self.sharing((budget,))
                if model is not sparing and model not in victims and model.state == "loaded" and not model.leases and not model.pinned
            ]
            chosen = choose_victims(candidates, missing)
            if chosen is None:
                return []
            victims += chosen
        return victims

    def sharing(self, budgets: Iterable[Budget]) -> list[TrackedModel]:
        """The models that count against one of the budgets which have a limit."""
        wanted = list(budgets)
        return [model for model in self.models if any(budget in model.account.bounds for budget in wanted)]

"""Models that weigh what they are told to, for tests of who is in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_residency.memory import Account, Budget, KVShare, MemoryLedger
from llmasos_residency.prediction import Need
from llmasos_residency.residency import Residency


class FakeModel:
    """A resident that holds the residency to its promises: loaded once at a time, unloaded only when nobody uses it."""

    def __init__(
        self, memory: MemoryLedger, weights: int, *, predicted: int | None = None, per_token: int = 1, seconds: float = 1.0
    ) -> None:
        self.memory = memory
        self.real = self._need(weights, per_token, seconds, measured=True)
        self.predicted = self._need(weights if predicted is None else predicted, per_token, seconds, measured=False)
        self.loaded = False
        self.users = 0
        self.loads = 0
        self.failure: BaseException | None = None
        self.share: KVShare | None = None
        self.slow: Callable[[], Any] = lambda: None
        self.breaches: list[str] = []
        self._loading = threading.Lock()

    @staticmethod
    def _need(weights: int, per_token: int, seconds: float, *, measured: bool) -> Need:
        return Need(
            weights=weights, peak=weights, kv_bytes_per_token=per_token, context_length=1000, load_seconds=seconds, measured=measured
        )

    def need(self) -> Need:
        return self.predicted

    def load(self, account: Account) -> Need:
        if not self._loading.acquire(blocking=False):
            self.breaches.append("two loads at once")
        try:
            if self.loaded:
                self.breaches.append("loaded twice")
            self.slow()
            if self.failure is not None:
                raise self.failure
            self.share = self.memory.share(account)
            self.loads += 1
            self.loaded = True
            return self.real
        finally:
            self._loading.release()

    def unload(self) -> None:
        if self.users:
            self.breaches.append(f"unloaded with {self.users} users")
        self.loaded = False

    def trim(self) -> None:
        if self.share is not None:
            self.memory.give_back(self.share, 0)


class Harness:
    """A residency of fake models within one budget."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = Budget("the budget", limit)
        self.residency = Residency(clock=clock)
        self.models: dict[str, FakeModel] = {}
        self.places: dict[str, Any] = {}

    def add(self, name: str, weights: int, *, keep_alive: float | None = None, budgets: tuple[Budget, ...] = (), **how: Any) -> Any:
        model = self.models[name] = FakeModel(self.residency.memory, weights, **how)
        place = self.places[name] = self.residency.add(name, model, budgets or (self.budget,), keep_alive=keep_alive)
        return place

    def check(self) -> None:
        """What must hold at every moment."""
        with self.residency.memory.lock:
            assert self.budget.used <= self.budget.most
            assert self.budget.used == sum(place.account.bytes for place in self.places.values())
        assert not [breach for model in self.models.values() for breach in model.breaches]


@pytest.fixture(scope="session")
def harness() -> type[Harness]:
    return Harness

"""What the residency knows of one model: its memory, its leases and its state."""

from __future__ import annotations

from typing import Literal, Protocol

import attrs

from llmasos_hookspecs import LLMasOSError
from llmasos_residency.memory import Account
from llmasos_residency.prediction import Need

State = Literal["not loaded", "loading", "loaded", "unloading", "closed"]


class Resident(Protocol):
    """A model that the residency can load and unload. All methods are called without a lock held."""

    def need(self) -> Need:
        """The memory that a load will need; may fetch the model's files."""
        ...

    def load(self, account: Account) -> Need:
        """Load the model; its engines take their KV memory from shares of ``account``. Returns the memory that it really needs."""
        ...

    def unload(self) -> None:
        """Free the engines."""
        ...

    def trim(self) -> None:
        """Free all KV memory that no request needs."""
        ...


class PendingLoad:
    """A load in progress. ``error`` is why it failed, for every caller that waits for it."""

    error: LLMasOSError | None = None


@attrs.define(eq=False)
class TrackedModel:
    """A model that the residency manages, loaded or not.

    Attributes:
        name: of the model.
        account: its part of the memory ledger.
        resident: loads and unloads it.
        pinned: it is never unloaded to make room for another model.
        keep_alive: seconds after its last use when it is unloaded; None: when another model needs the memory.
        state: of its life cycle.
        leases: requests and callers that use it now; it is unloaded only where there are none.
        last_used: seconds of the clock.
        need: the memory that it takes; None until it is predicted.
        loads, evictions: counts.
        pending_load: the load in progress; None where there is none.
    """

    name: str
    account: Account
    resident: Resident
    pinned: bool = False
    keep_alive: float | None = None
    state: State = "not loaded"
    leases: int = 0
    last_used: float = 0.0
    need: Need | None = None
    loads: int = 0
    evictions: int = 0
    pending_load: PendingLoad | None = None

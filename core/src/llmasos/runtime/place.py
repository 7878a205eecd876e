"""One model's place in memory: what it holds, who uses it, and what it is doing."""

from __future__ import annotations

from typing import Literal, Protocol

import attrs

from llmasos.runtime.memory import Account
from llmasos.runtime.prediction import Need
from llmasos_hookspecs import LLMasOSError

State = Literal["not loaded", "loading", "loaded", "unloading", "closed"]


class Resident(Protocol):
    """A model as its residency needs it. All methods are called without a lock held."""

    def need(self) -> Need:
        """What loading it takes; may fetch the model's files."""
        ...

    def load(self, account: Account) -> Need:
        """Load it, its engines drawing KV from shares of ``account``; what it really takes."""
        ...

    def unload(self) -> None:
        """Free its engines."""
        ...

    def trim(self) -> None:
        """Give back all KV that no request needs."""
        ...


class Flight:
    """One load that is on its way, and how it failed for all who waited for it."""

    error: LLMasOSError | None = None


@attrs.define(eq=False)
class Place:
    """A model's place in memory, or the want of one.

    Attributes:
        name: the model's.
        account: its part of the memory ledger.
        pinned: never unloaded for another one.
        keep_alive: seconds after its last use when it is unloaded; None: when somebody needs the memory.
        state: what it is doing.
        leases: users and requests on their way.
        last_used: seconds of the clock.
        need: what it takes, once that is known.
        loads, evictions: how often.
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
    flight: Flight | None = None

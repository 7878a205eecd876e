"""The memory ledger: bytes of weights and KV of all models of the process, against their budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from llmasos_hookspecs import ResourceError
from llmasos_hookspecs.guarding.changes import Changes


@attrs.define(eq=False)
class Budget:
    """A bound on bytes; models count against each of theirs.

    Attributes:
        name: what set it, for messages.
        limit: bytes; None: no bound.
        reserve: bytes of the limit that models leave free, for activations and everything else in the process.
        used: bytes committed; only the ledger changes it.
    """

    name: str
    limit: int | None = None
    reserve: int = 0
    used: int = 0

    @property
    def most(self) -> float:
        """Bytes that models may take together."""
        return float("inf") if self.limit is None else max(0, self.limit - self.reserve)

    @property
    def free(self) -> float:
        """Bytes that are left; below zero where the limit was lowered meanwhile."""
        return self.most - self.used


@attrs.define(eq=False)
class KVShare:
    """One engine's part of its model's account: ``drawn`` is how many tokens its KV cache may hold now."""

    account: Account
    drawn: int = 0


@attrs.define(eq=False)
class Account:
    """The memory that one model holds.

    KV memory is claimed and drawn. A *claim* guarantees that one request's tokens fit, whatever else is loaded; of several claims on one
    model the largest counts, because the engine can serve the requests one after the other. What an engine *draws* beyond the claim lets
    several requests run at once while memory allows.
    """

    name: str
    budgets: tuple[Budget, ...]
    weights: int = 0
    kv_bytes_per_token: int = 0
    claims: list[int] = attrs.field(factory=list)
    shares: list[KVShare] = attrs.field(factory=list)

    @property
    def floor(self) -> int:
        """Tokens of the largest claim."""
        return max(self.claims, default=0)

    @property
    def kv(self) -> int:
        """Bytes of keys and values, claimed or drawn."""
        floor = self.floor
        return self.kv_bytes_per_token * sum(max(floor, share.drawn) for share in self.shares)

    @property
    def bounds(self) -> list[Budget]:
        """Its budgets that have a limit."""
        return [budget for budget in self.budgets if budget.limit is not None]

    def growth(self, tokens: int) -> int:
        """Bytes that a claim of ``tokens`` would add."""
        floor = self.floor
        return self.kv_bytes_per_token * sum(max(0, tokens - max(floor, share.drawn)) for share in self.shares)

    @property
    def bytes(self) -> int:
        """Bytes that count against its budgets: weights and KV."""
        return self.weights + self.kv


class MemoryLedger:
    """Commits bytes to models, never more than every budget holds. Thread-safe; no method waits.

    Attributes:
        lock: every method holds it; a caller that needs several calls to be atomic holds it around them.
        changes: what waits for changes under that lock.
        scarce: a caller waits for memory, so that no engine may draw more than is claimed.
    """

    def __init__(self, on_freed: Callable[[], None] = lambda: None) -> None:
        self.changes: Final = Changes()
        self.lock: Final = self.changes.lock
        self.scarce = False
        self.on_freed = on_freed

    # Weights

    def set_weights(self, account: Account, weights: int, kv_bytes_per_token: int | None = None) -> bool:
        """Commit ``weights`` bytes instead of what was before; False, and nothing changed, where they do not fit."""
        per_token = account.kv_bytes_per_token if kv_bytes_per_token is None else kv_bytes_per_token
        with self.lock:
            tokens = sum(max(account.floor, share.drawn) for share in account.shares)
            if not self._commit(account, weights + per_token * tokens - account.bytes):
                return False
            account.weights, account.kv_bytes_per_token = weights, per_token
        self.on_freed()
        return True

    def close(self, account: Account) -> None:
        """The model is unloaded: give back its weights and all that its engines drew."""
        with self.lock:
            self._commit(account, -account.bytes)
            account.weights = 0
            account.shares.clear()
        self.on_freed()

    # KV

    def share(self, account: Account) -> KVShare:
        """Add the share of one more engine; claims count once for each engine. Raises ``ResourceError`` where the present claim does not
        fit again."""
        with self.lock:
            if not self._commit(account, account.floor * account.kv_bytes_per_token):
                raise ResourceError(f"No memory is left for the requests of {account.name} on one more engine; raise resources.memory.")
            share = KVShare(account)
            account.shares.append(share)
            return share

    def claim(self, account: Account, tokens: int) -> bool:
        """Claim ``tokens`` tokens for a request; False, and nothing changed, where they do not fit now."""
        with self.lock:
            if not self._commit(account, account.growth(tokens)):
                return False
            account.claims.append(tokens)
            return True

    def end_claim(self, account: Account, tokens: int) -> None:
        """End the claim of a request of ``tokens`` tokens."""
        with self.lock:
            before = account.bytes
            account.claims.remove(tokens)
            self._commit(account, account.bytes - before)
        self.on_freed()

    def draw(self, share: KVShare, tokens: int) -> bool:
        """Let the share's engine hold ``tokens`` tokens in all; False, and nothing changed, where these do not fit now."""
        account = share.account
        with self.lock:
            if share not in account.shares:
                return False
            floor = account.floor
            grown = max(floor, tokens) - max(floor, share.drawn)
            if grown > 0 and (self.scarce or not self._commit(account, grown * account.kv_bytes_per_token)):
                return False
            share.drawn = max(share.drawn, tokens)
            return True

    def give_back(self, share: KVShare, tokens: int) -> None:
        """Reduce the share: its engine holds at most ``tokens`` tokens from now on."""
        account = share.account
        with self.lock:
            if share not in account.shares or tokens >= share.drawn:
                return
            before = account.bytes
            share.drawn = tokens
            self._commit(account, account.bytes - before)
        self.on_freed()

    # Questions

    def missing(self, budgets: Iterable[Budget], needed: float) -> float:
        """Bytes that have to be freed before ``needed`` more fit; 0 where they fit now."""
        with self.lock:
            return max(0.0, *(needed - budget.free for budget in budgets), 0.0)

    def most_tokens(self, account: Account) -> int | None:
        """Tokens that one engine of the account could hold if it were alone; None: no budget bounds them."""
        most = min((budget.most for budget in account.budgets), default=float("inf"))
        if most == float("inf") or not account.kv_bytes_per_token:
            return None
        return max(0, int(most - account.weights) // account.kv_bytes_per_token)

    def _commit(self, account: Account, change: int) -> bool:
        if change > 0 and any(change > budget.free for budget in account.budgets):
            return False
        for budget in account.budgets:
            budget.used += change
        return True

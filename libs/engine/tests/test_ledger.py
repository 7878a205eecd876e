"""The KV ledger under random traffic."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmasos_engine.ledger import KVLedger, kv_capacity
from llmasos_hookspecs import EngineInfo, ResourceError

CAPACITY = 50


class LedgerMachine(RuleBasedStateMachine):
    """Every order of operations keeps ``used`` at the sum of what is held and reserved, and at most the capacity."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = KVLedger(CAPACITY)
        self.held: dict[int, int] = {}
        self.reserved: dict[int, int] = {}
        self.next = 0

    def any_slot(self, data: st.DataObject, among: dict[int, int]) -> int | None:
        return data.draw(st.sampled_from(sorted(among))) if among else None

    @rule()
    def open(self) -> None:
        self.ledger.open(self.next)
        self.held[self.next] = 0
        self.next += 1

    @rule(data=st.data(), tokens=st.integers(0, 30))
    def reserve(self, data: st.DataObject, tokens: int) -> None:
        slot = self.any_slot(data, {slot: held for slot, held in self.held.items() if slot not in self.reserved})
        if slot is None:
            return
        fits = sum(self.held.values()) + sum(self.reserved.values()) + tokens <= CAPACITY
        assert self.ledger.reserve(slot, tokens) == fits
        if fits:
            self.reserved[slot] = tokens

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        if (slot := self.any_slot(data, self.reserved)) is not None:
            self.ledger.commit(slot)
            self.held[slot] += self.reserved.pop(slot)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if (slot := self.any_slot(data, self.held)) is not None:
            self.ledger.release(slot)
            self.reserved.pop(slot, None)

    @rule(data=st.data(), share=st.floats(0, 1))
    def truncate(self, data: st.DataObject, share: float) -> None:
        if (slot := self.any_slot(data, self.held)) is not None:
            self.held[slot] = int(self.held[slot] * share)
            self.ledger.truncate(slot, self.held[slot])

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if (slot := self.any_slot(data, self.held)) is not None:
            self.ledger.close(slot)
            del self.held[slot]
            self.reserved.pop(slot, None)

    @invariant()
    def books_are_true(self) -> None:
        assert self.ledger.used == sum(self.held.values()) + sum(self.reserved.values())
        assert 0 <= self.ledger.used <= CAPACITY
        assert self.ledger.free == CAPACITY - self.ledger.used
        assert self.ledger.slots == len(self.held)
        assert all(self.ledger.held(slot) == held for slot, held in self.held.items())


LedgerMachine.TestCase.settings = settings(max_examples=settings.default.max_examples // 2, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase


def test_misuse_is_refused() -> None:
    """Two reservations of one slot, growing by truncation, and strangers are faults, not arithmetic."""
    ledger = KVLedger(10)
    ledger.open(1)
    assert ledger.reserve(1, 4)
    with pytest.raises(ValueError, match="cannot reserve"):
        ledger.reserve(1, 1)
    ledger.commit(1)
    with pytest.raises(ValueError, match="holds 4"):
        ledger.truncate(1, 5)
    with pytest.raises(ValueError, match="cannot reserve"):
        ledger.reserve(2, 1)
    with pytest.raises(ValueError, match="open already"):
        ledger.open(1)


def test_capacity_follows_the_budget() -> None:
    """Slots bound it, memory bounds it, and a budget that holds no token is refused with the reason."""
    info = EngineInfo(vocab_size=10, context_length=100, max_sequences=4, weight_bytes=1000, kv_bytes_per_token=10)
    assert kv_capacity(info) == 400
    assert kv_capacity(info, 3000) == 200
    assert kv_capacity(info, 10**9) == 400
    with pytest.raises(ResourceError, match="1000 bytes of weights"):
        kv_capacity(info, 1005)

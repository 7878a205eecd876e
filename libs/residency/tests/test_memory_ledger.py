"""The memory ledger commits no byte twice and none too many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from llmasos_hookspecs import ResourceError
from llmasos_residency.kv_share import SharedKVLedger
from llmasos_residency.memory import Account, Budget, MemoryLedger

MOVES = st.lists(
    st.tuples(
        st.sampled_from(("weights", "close", "share", "claim", "end", "draw", "back", "scarce")), st.integers(0, 2), st.integers(0, 60)
    ),
    max_size=60,
)


@settings(max_examples=2 * settings.default.max_examples)
@given(limits=st.tuples(st.integers(0, 300), st.none() | st.integers(0, 300), st.integers(0, 50)), moves=MOVES)
def test_no_sequence_of_moves_overcommits(limits: tuple[int, int | None, int], moves: list[tuple[str, int, int]]) -> None:
    """Whatever is committed, promised, drawn and given back: no budget is passed, and what is used is what the accounts hold."""
    common, own = Budget("common", limits[0], limits[2]), Budget("own", limits[1])
    accounts = [Account("a", (common,)), Account("b", (common, own)), Account("c", (own, common))]
    ledger = MemoryLedger()
    for move, place, amount in moves:
        account = accounts[place]
        before = [each.bytes for each in accounts]
        refused = False
        if move == "weights":
            refused = not ledger.set_weights(account, amount * 3, amount % 4)
        elif move == "close":
            ledger.close(account)
        elif move == "share" and len(account.shares) < 3:
            try:
                ledger.share(account)
            except ResourceError:
                refused = True
        elif move == "claim":
            fits = all(account.growth(amount) <= budget.free for budget in account.budgets)
            refused = not ledger.claim(account, amount)
            assert refused != (fits or account.growth(amount) == 0)
        elif move == "end" and account.claims:
            ledger.end_claim(account, account.claims[amount % len(account.claims)])
        elif move == "draw" and account.shares:
            share = account.shares[amount % len(account.shares)]
            within = amount <= max(account.floor, share.drawn)
            refused = not ledger.draw(share, amount)
            assert not (within and refused), "what was promised is always to be had"
        elif move == "back" and account.shares:
            ledger.give_back(account.shares[amount % len(account.shares)], amount)
        elif move == "scarce":
            ledger.scarce = not ledger.scarce
        if refused:
            assert [each.bytes for each in accounts] == before
        assert common.used == sum(each.bytes for each in accounts) <= common.most
        assert own.used == sum(each.bytes for each in accounts[1:]) <= own.most


@given(
    limit=st.integers(0, 1500),
    promised=st.integers(0, 600),
    moves=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(("reserve", "commit", "release", "truncate", "close")), st.integers(0, 400))
    ),
)
def test_an_engine_draws_what_it_holds(limit: int, promised: int, moves: list[tuple[int, str, int]]) -> None:
    """The KV ledger of an engine never holds more than it drew, and can always reserve what was promised."""
    budget = Budget("budget", limit)
    account, memory = Account("a", (budget,)), MemoryLedger()
    memory.set_weights(account, 0, 1)
    share = memory.share(account)
    if not memory.claim(account, promised):
        promised = 0
    kv = SharedKVLedger(2000, memory, share)
    held: dict[int, int] = {}
    reserved: dict[int, int] = {}
    for slot, move, amount in moves:
        if slot not in held:
            kv.open(slot)
            held[slot] = 0
        if move == "reserve" and slot not in reserved:
            if kv.reserve(slot, amount):
                reserved[slot] = amount
            else:
                assert kv.used + amount > promised, "what was promised is always to be had"
        elif move == "commit" and slot in reserved:
            kv.commit(slot)
            held[slot] += reserved.pop(slot)
        elif move == "release":
            kv.release(slot)
            reserved.pop(slot, None)
        elif move == "truncate" and slot not in reserved:
            held[slot] = min(held[slot], amount)
            kv.truncate(slot, held[slot])
        elif move == "close":
            kv.close(slot)
            del held[slot]
            reserved.pop(slot, None)
        assert kv.used == sum(held.values()) + sum(reserved.values()) <= share.drawn
        assert budget.used == max(promised if promised else 0, share.drawn) <= limit
    kv.clear()
    assert share.drawn == 0


def test_memory_is_given_back_by_two_pages_or_more() -> None:
    """So a sequence whose length goes back and forth over the border of a page does not change the memory ledger each time."""
    account, memory = Account("a", (Budget("budget", 1000),)), MemoryLedger()
    memory.set_weights(account, 0, 1)
    share = memory.share(account)
    kv = SharedKVLedger(1000, memory, share)
    kv.open(0)
    drawn = []
    for length in (100, 64, 65, 60):
        held = min(length, kv.used)
        kv.truncate(0, held)
        assert kv.reserve(0, length - held)
        kv.commit(0)
        drawn.append(share.drawn)
    assert drawn == [128] * 4, "Pages of 64 tokens."
    assert kv.reserve(0, 150)
    assert share.drawn == 256
    kv.release(0)
    assert share.drawn == 64
    kv.close(0)
    assert share.drawn == 0


def test_no_more_is_drawn_than_the_slots_hold() -> None:
    """However much memory is free; the last page is cut to what they hold."""
    account, memory = Account("a", (Budget("budget", 5000),)), MemoryLedger()
    memory.set_weights(account, 0, 1)
    share = memory.share(account)
    kv = SharedKVLedger(1000, memory, share)
    kv.open(0)
    assert kv.capacity == 1000
    assert not kv.ensure(1001)
    assert not kv.reserve(0, 1001)
    assert (share.drawn, kv.used) == (0, 0)
    assert kv.ensure(1000)
    assert (share.drawn, kv.free) == (1000, 1000)
    assert kv.reserve(0, 1000)
    assert not kv.ensure(1)


def test_what_is_promised_is_had_though_others_wait() -> None:
    """While somebody waits for memory nobody draws more than was promised, and everybody gets what was."""
    budget = Budget("budget", 100)
    account, memory = Account("a", (budget,)), MemoryLedger()
    memory.set_weights(account, 10, 1)
    share = memory.share(account)
    assert memory.claim(account, 20)
    memory.scarce = True
    assert not memory.draw(share, 21)
    assert memory.draw(share, 20)
    memory.scarce = False
    assert memory.draw(share, 90)
    assert not memory.draw(share, 91)


def test_most_tokens_leaves_room_for_weights_and_reserve() -> None:
    account = Account("a", (Budget("one", 1000, 100), Budget("two")), weights=300, kv_bytes_per_token=7)
    assert MemoryLedger().most_tokens(account) == 600 // 7
    assert MemoryLedger().most_tokens(Account("b", (Budget("none"),), kv_bytes_per_token=7)) is None
    with pytest.raises(ValueError, match="not in list"):
        MemoryLedger().end_claim(account, 5)

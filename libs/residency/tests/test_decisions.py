"""One model after the other, decision by decision: what is refused, in which words; what is unloaded; what counts say afterwards."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import attrs
import pytest

from llmasos_hookspecs import EngineFailed, LLMasOSError, ModelClosed, ResourceError
from llmasos_residency.callers import PATIENCE, Waiter
from llmasos_residency.handover import Handover
from llmasos_residency.kv_share import SharedKVLedger
from llmasos_residency.memory import Account, Budget, MemoryLedger

SECONDS = 60.0


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(LLMasOSError) as caught:
        call(*arguments)
    return str(caught.value)


def test_what_cannot_fit_beside_pinned_models_is_told(harness: Any) -> None:
    """With what is left beside all that are pinned and in memory; what fits exactly is loaded."""
    home = harness(100)
    for name, weights in (("a", 30), ("c", 20), ("idle", 10)):
        home.residency.acquire(home.add(name, weights)).release()
    for name in ("a", "c", "away"):
        (home.places.get(name) or home.add("away", 50)).pinned = True
    b = home.add("b", 40)
    assert refusal(home.residency.acquire, b, 11) == (
        "The model b needs 51 B for its weights and this request, and the budget leaves 50 B beside the pinned a, c; raise it, ask for "
        "fewer tokens, or use a smaller or quantised model."
    )
    home.residency.acquire(b, 10).release()
    assert refusal(home.residency.acquire, b, 11).startswith("The model b needs 51 B "), "It is told of a loaded model too."
    home.places["a"].pinned = home.places["c"].pinned = False
    assert refusal(home.residency.acquire, b, 61) == (
        "The model b needs 101 B for its weights and this request, and the budget leaves 100 B; raise it, ask for fewer tokens, or use a "
        "smaller or quantised model."
    )
    home.check()


def test_what_would_be_evicted_is_known_before(harness: Any) -> None:
    home = harness(100, clock=lambda: 0.0)
    cheap, dear = home.add("cheap", 30, seconds=1.0), home.add("dear", 40, seconds=9.0)
    for model in (cheap, dear):
        home.residency.acquire(model).release()
    ask = home.residency.would_evict
    assert ask((home.budget,), 30) == (0.0, [])
    assert ask((home.budget,), 31) == (1.0, [cheap])
    assert ask((home.budget,), 61) == (31.0, [dear])
    assert ask((home.budget,), 71) == (41.0, [cheap, dear])
    assert ask((home.budget,), 31, sparing=cheap) == (1.0, [dear])
    assert ask((home.budget,), 101) == (71.0, [])
    dear.pinned = True
    assert ask((home.budget,), 61) == (31.0, [])
    with home.residency.leased(cheap):
        assert ask((home.budget,), 31) == (1.0, [])
    assert ask((), 10**9) == (0.0, [])


def test_a_reload_is_weighed_against_the_time_unused(harness: Any) -> None:
    """Ten seconds of loading after a hundred unused are less than two seconds after ten; both moments count from the last use."""
    now = [0.0]
    home = harness(100, clock=lambda: now[0])
    old, recent = home.add("old", 40, seconds=10.0), home.add("recent", 40, seconds=2.0)
    lease = home.residency.acquire(old)
    now[0] = 50.0
    lease.release()
    now[0] = 140.0
    home.residency.acquire(recent).release()
    assert (old.last_used, recent.last_used) == (50.0, 140.0)
    now[0] = 150.0
    assert home.residency.would_evict((home.budget,), 30)[1] == [old]
    now[0] = 165.0
    assert home.residency.would_evict((home.budget,), 30)[1] == [recent]


@pytest.mark.parametrize(("seconds", "patience"), [(0.0, PATIENCE[0]), (0.5, 0.5), (100.0, PATIENCE[1])])
def test_patience_is_the_time_of_the_load_within_bounds(harness: Any, seconds: float, patience: float) -> None:
    home = harness(100)
    held = home.residency.acquire(home.add("held", 60))
    waits = Waiter(home.add("waits", 60, seconds=seconds), 0, 0.0)
    home.residency.predict(waits.model)
    home.residency.queue.append(waits)
    with home.residency.changes.lock:
        assert home.residency.advance(waits) is None
    assert (waits.blocked, waits.patience) == (True, patience)
    assert home.residency.memory.scarce
    home.residency.leave(waits)
    assert not home.residency.memory.scarce
    held.release()


def test_unloading_and_loading_again_is_counted(harness: Any) -> None:
    """A model in use is not unloaded, nor is one that is not loaded; being lost unloads it though it is in use, for its own load alone."""
    home = harness(100)
    a = home.add("a", 60)
    assert not home.residency.unload(a)
    lease = home.residency.acquire(a, 20)
    assert (a.state, a.leases, a.loads, home.budget.used) == ("loaded", 1, 1, 80)
    assert not home.residency.unload(a)
    lease.release()
    lease.release()
    assert (a.leases, home.budget.used) == (0, 60)
    assert home.residency.unload(a)
    assert (a.state, a.evictions, home.budget.used, home.models["a"].loaded) == ("not loaded", 0, 0, False)
    lease = home.residency.acquire(a)
    home.residency.lost(a, 1)
    assert (a.state, a.loads) == ("loaded", 2)
    home.residency.lost(a, 2)
    assert (a.state, home.budget.used, home.models["a"].loaded) == ("not loaded", 0, False)
    lease.release()
    assert (a.leases, home.budget.used) == (0, 0)


def test_a_lease_ends_with_its_block(harness: Any) -> None:
    """Also where the block raises, and not twice where it was released inside."""
    home = harness(100)
    a = home.add("a", 60)
    with home.residency.leased(a, 30):
        assert (a.leases, home.budget.used) == (1, 90)
    with pytest.raises(ValueError, match="planted"), home.residency.leased(a, 30):
        raise ValueError("planted")
    assert (a.leases, home.budget.used, home.residency.queue) == (0, 60, [])


def test_a_model_that_is_closed_is_gone_for_good(harness: Any) -> None:
    """In use or not, loaded or not; once more does nothing, and who asks for it is told."""
    home = harness(100)
    a, b = home.add("a", 60), home.add("b", 30)
    lease = home.residency.acquire(a, 10)
    assert home.residency.models() == [a, b]
    for model in (a, a, b):
        home.residency.close(model)
    assert home.residency.models() == []
    assert (a.state, b.state, home.budget.used, home.models["a"].loaded) == ("closed", "closed", 0, False)
    lease.release()
    assert (home.budget.used, a.leases) == (0, 0)
    for model in (a, b):
        with pytest.raises(ModelClosed) as caught:
            home.residency.acquire(model)
        assert str(caught.value) == f"The model {model.name} is closed; load it again to use it."
        assert home.residency.acquire_now(model) is None


def test_closing_waits_for_a_load_and_gives_up(harness: Any, caplog: pytest.LogCaptureFixture) -> None:
    """After that it says that the memory is not free; the load is freed when it ends, and its caller hears that the model is closed."""
    home = harness(100)
    home.residency._close_timeout = 0.05
    a = home.add("a", 60)
    loading, go_on = threading.Event(), threading.Event()
    home.models["a"].slow = lambda: (loading.set(), go_on.wait(SECONDS))
    told: list[str] = []
    user = threading.Thread(target=lambda: told.append(refusal(home.residency.acquire, a)))
    user.start()
    assert loading.wait(SECONDS)
    assert (a.state, home.residency.acquire_now(a)) == ("loading", None)
    with caplog.at_level(logging.ERROR):
        home.residency.close(a)
    assert caplog.messages == ["The model a was closed while it was loading; its memory is not free."]
    go_on.set()
    user.join(SECONDS)
    assert told == ["The model a is closed; load it again to use it."]
    assert (a.state, home.models["a"].loaded, home.budget.used) == ("closed", False, 0)


def test_what_a_load_really_takes_replaces_the_prediction(harness: Any) -> None:
    home = harness(100)
    a = home.add("a", 50, predicted=70, per_token=2)
    assert a.need is None
    home.residency.acquire(a, 5).release()
    assert a.need == home.models["a"].real
    assert (a.account.weights, a.account.kv_bytes_per_token, home.budget.used) == (50, 2, 50)
    home.residency.unload(a)
    home.residency.settle(home.budget)
    assert a.need is None, "With another budget it is predicted again."


def test_without_a_budget_nothing_is_predicted(harness: Any) -> None:
    """For a prediction may read large files."""
    home = harness(100)
    a = home.add("a", 50, budgets=(Budget("none"),))
    home.models["a"].need = None
    home.residency.acquire(a, 10**9).release()
    assert a.state == "loaded"


def test_a_load_reserves_its_peak_where_that_fits(harness: Any) -> None:
    """Else what is free, if the weights and the request fit; what it does not take is free after it."""
    for limit, reserved in ((100, 90), (70, 70), (60, 60)):
        home = harness(limit)
        a = home.add("a", 50)
        home.models["a"].predicted = attrs.evolve(home.models["a"].predicted, peak=90)
        seen: list[tuple[int, str]] = []
        home.models["a"].slow = lambda home=home, a=a, seen=seen: seen.append((home.budget.used, a.state))
        home.residency.acquire(a, 10).release()
        assert (seen, home.budget.used) == ([(reserved, "loading")], 50)
    home = harness(59)
    assert "needs 60 B" in refusal(home.residency.acquire, home.add("a", 50), 10)


def test_an_engine_more_needs_room_for_the_claim() -> None:
    """Of the largest request that is on its way; without that room nothing changes."""
    budget = Budget("the budget", 100)
    account, memory = Account("a", (budget,)), MemoryLedger()
    assert memory.set_weights(account, 40, 2)
    memory.share(account)
    assert memory.claim(account, 15)
    assert memory.claim(account, 5)
    assert (account.floor, account.kv, account.bytes, budget.used, budget.free) == (15, 30, 70, 70, 30)
    assert (account.growth(15), account.growth(20)) == (0, 10)
    memory.share(account)
    assert (budget.used, budget.free) == (100, 0)
    assert refusal(memory.share, account) == "No memory is left for the requests of a on one more engine; raise resources.memory."
    assert len(account.shares) == 2
    assert memory.missing((budget,), 7) == 7
    assert memory.missing((budget, Budget("other", 3)), 7) == 7
    assert memory.missing((Budget("other", 30),), 7) == 0
    memory.end_claim(account, 15)
    assert (account.floor, budget.used) == (5, 60)
    memory.close(account)
    assert (budget.used, account.shares, account.weights) == (0, [], 0)


def test_freed_memory_is_told() -> None:
    """By each way in which it may be freed."""
    told: list[int] = []
    account = Account("a", (Budget("the budget", 100),))
    memory = MemoryLedger(lambda: told.append(1))
    memory.set_weights(account, 10, 1)
    share = memory.share(account)
    memory.claim(account, 5)
    memory.draw(share, 20)
    assert len(told) == 1
    memory.give_back(share, 20)
    assert len(told) == 1, "Nothing was freed."
    memory.give_back(share, 3)
    memory.end_claim(account, 5)
    memory.close(account)
    assert len(told) == 4
    assert not memory.draw(share, 1), "Its engine is gone."


def test_budgets() -> None:
    """A bound less its reserve, and never below zero; None is no bound."""
    assert (Budget("a", 100, 30, 20).most, Budget("a", 100, 30, 20).free) == (70, 50)
    assert (Budget("a", 10, 30).most, Budget("a", 10, 30, 5).free) == (0, -5)
    assert Budget("a").most == float("inf")
    bounded = Budget("b", 0)
    assert Account("m", (Budget("a"), bounded)).bounds == [bounded]


def test_a_ledger_takes_what_is_left_where_a_page_does_not_fit() -> None:
    """Of 70 tokens a page of 64 and then 6, not a second page; what was claimed counts as free before it is drawn."""
    account, memory = Account("a", (Budget("the budget", 70),)), MemoryLedger()
    memory.set_weights(account, 0, 1)
    share = memory.share(account)
    kv = SharedKVLedger(1000, memory, share)
    kv.open(0)
    assert (kv.capacity, kv.free) == (70, 0)
    assert memory.claim(account, 10)
    assert kv.free == 10
    assert kv.reserve(0, 1)
    assert (share.drawn, kv.free) == (64, 63)
    kv.commit(0)
    assert kv.reserve(0, 69)
    assert (share.drawn, kv.free) == (70, 0)
    assert not kv.ensure(1)
    kv.release(0)
    assert kv.held(0) == 1
    kv.capacity = 40
    assert kv.capacity == 40


def test_keep_alive_counts_from_the_last_use(harness: Any) -> None:
    """A model in use stays, and so does one that is pinned, or that has no keep-alive."""
    now = [0.0]
    home = harness(1000, clock=lambda: now[0])
    short, used, pinned = (home.add(name, 10, keep_alive=5.0) for name in ("short", "used", "pinned"))
    stays = home.add("stays", 10)
    pinned.pinned = True
    lease = home.residency.acquire(used)
    for model in (pinned, stays, short):
        home.residency.acquire(model).release()
    changed = home.residency.changes

    def look() -> None:
        with changed.lock:
            changed.tell()

    now[0] = 4.9
    look()
    assert not changed.wait_for(lambda: short.state != "loaded", 0.2)
    now[0] = 5.0
    look()
    assert changed.wait_for(lambda: short.state == "not loaded", SECONDS)
    assert [model.state for model in (used, pinned, stays)] == ["loaded"] * 3
    lease.release()
    now[0] = 10.0
    look()
    assert changed.wait_for(lambda: used.state == "not loaded", SECONDS)
    assert [model.state for model in (pinned, stays)] == ["loaded"] * 2


def test_results_that_nobody_takes_are_given_up() -> None:
    """Of a task that was cancelled before or after they came, and of an event loop that has been closed; errors reach the task."""
    given_up: list[str] = []

    async def main() -> Handover[str]:
        taken: Handover[str] = Handover(given_up.append)
        threading.Timer(0.02, taken.succeed, ["taken"]).start()
        assert await taken.take() == "taken"
        failed: Handover[str] = Handover(given_up.append)
        failed.fail(EngineFailed("It is lost."))
        with pytest.raises(EngineFailed, match="It is lost"):
            await failed.take()
        for late in (False, True):
            left: Handover[str] = Handover(given_up.append)
            task = asyncio.ensure_future(left.take())
            await asyncio.sleep(0)
            if not late:
                left.succeed("early")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if late:
                left.succeed("late")
        return Handover(given_up.append)

    behind = asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert given_up == ["early", "late"]
    behind.succeed("behind")
    behind.fail(ResourceError("told to nobody"))
    assert given_up == ["early", "late", "behind"]

"""Who is in memory: leases hold, loads happen once, waiters are served, and the cheapest idle model goes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmasos_hookspecs import EngineFailed, ModelClosed, ResourceError
from llmasos_residency.callers import Waiter
from llmasos_residency.eviction import Candidate, choose_victims
from llmasos_residency.memory import Budget
from llmasos_residency.tracked_model import TrackedModel


def in_threads(*actions: Callable[[], Any]) -> list[Exception]:
    """Run all at once; what they raised. A thread that never ends is a waiter that was lost."""
    errors: list[Exception] = []

    def run(action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not [thread for thread in threads if thread.is_alive()], "somebody waits for ever"
    return errors


@given(seed=st.integers(0, 2**32), limit=st.integers(100, 200), threads=st.integers(2, 8), surprise=st.booleans(), faults=st.booleans())
def test_random_use_by_many_threads(harness: Any, seed: int, limit: int, threads: int, surprise: bool, faults: bool) -> None:
    """Never over budget, no leased model unloaded, one load at a time, nobody waits for ever; only what fails fails."""
    home = harness(limit)
    draw = random.Random(seed)
    for name in "abcd":
        weights = draw.randint(20, 60)
        home.add(name, weights, predicted=weights // 2 if surprise else None, per_token=draw.randint(0, 2), seconds=draw.random() / 100)
    if faults:
        home.models["d"].failure = EngineFailed("this model never loads")
    users = threading.Lock()

    def use(each: random.Random) -> None:
        for _ in range(6):
            name = each.choice("abcd")
            model, place = home.models[name], home.places[name]
            try:
                lease = home.residency.acquire(place, each.randint(0, 20))
            except EngineFailed:
                assert faults
                assert name == "d"
                continue
            with users:
                model.users += 1
            assert model.loaded
            if model.share is not None and each.random() < 0.5:
                home.residency.memory.draw(model.share, each.randint(0, 40))
            home.check()
            with users:
                model.users -= 1
            lease.release()
            home.check()

    assert in_threads(*(lambda number=number: use(random.Random(seed + number)) for number in range(threads))) == []
    home.check()
    assert home.residency.waiting == 0
    assert not home.residency.memory.scarce
    for place in home.places.values():
        assert place.leases == 0
        home.residency.close(place)
    assert home.budget.used == 0


def test_of_many_at_once_one_loads(harness: Any) -> None:
    """Single flight: all who ask while a model loads get that load, or its error."""
    home = harness(100)
    place = home.add("a", 50)
    model = home.models["a"]
    arrived = threading.Barrier(8)
    model.slow = lambda: None

    def use() -> None:
        arrived.wait()
        with home.residency.leased(place):
            assert model.loaded

    assert in_threads(*[use] * 8) == []
    assert model.loads == 1


def test_a_failed_load_fails_for_all_who_waited_for_it(harness: Any) -> None:
    home = harness(100)
    place = home.add("a", 50)
    model = home.models["a"]
    model.failure = EngineFailed("no such kernel")
    tried = []

    def wait_for_company() -> None:
        tried.append(1)
        while len(home.residency.queue) < 4:
            threading.Event().wait(0.001)

    model.slow = wait_for_company
    errors = in_threads(*[lambda: home.residency.acquire(place)] * 4)
    assert [str(error) for error in errors] == ["no such kernel"] * 4
    assert len(tried) <= 2  # one who came after the flight had landed may try again
    assert (home.budget.used, place.state, place.pending_load, place.loads) == (0, "not loaded", None, 0)
    model.failure, model.slow = None, lambda: None
    home.residency.acquire(place).release()
    assert model.loaded


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError()])
def test_a_load_that_is_interrupted_leaves_nothing_behind(harness: Any, error: BaseException) -> None:
    home = harness(100)
    a, b = home.add("a", 60), home.add("b", 60)
    home.models["a"].failure = error
    with pytest.raises(type(error)):
        home.residency.acquire(a, 10)
    home.check()
    assert (home.budget.used, a.state, a.leases) == (0, "not loaded", 0)
    home.residency.acquire(b, 40).release()
    home.models["a"].failure = None
    with home.residency.leased(a, 40):
        home.check()
    home.check()


def test_an_eviction_that_is_interrupted_before_it_begins_leaves_the_model_loaded(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home = harness(100)
    place = home.add("a", 60)
    home.residency.acquire(place).release()

    def strike(model: TrackedModel, name: str, value: object) -> None:
        if (name, value) == ("state", "unloading"):
            raise KeyboardInterrupt
        object.__setattr__(model, name, value)

    with monkeypatch.context() as patched:
        patched.setattr(TrackedModel, "__setattr__", strike)
        with pytest.raises(KeyboardInterrupt):
            home.residency.unload(place)
    assert (place.state, home.models["a"].loaded, home.budget.used) == ("loaded", True, 60)
    assert home.residency.unload(place)
    assert (place.state, home.models["a"].loaded, home.budget.used) == ("not loaded", False, 0)


def test_what_leaves_one_budget_counts_in_the_next(harness: Any) -> None:
    """A model on two devices frees memory on both, and then nothing more is evicted on the second."""
    home = harness(100)
    both = (home.budget, Budget("the other budget", 100))
    wide, other, needy = home.add("wide", 60, budgets=both), home.add("other", 30, budgets=both[1:]), home.add("needy", 60, budgets=both)
    home.residency.acquire(wide).release()
    home.residency.acquire(other).release()
    home.residency.acquire(needy).release()
    assert [model.state for model in (wide, other, needy)] == ["not loaded", "loaded", "loaded"]
    assert [budget.used for budget in both] == [60, 90]


def test_a_lowered_budget_unloads_idle_models_until_the_rest_fit(harness: Any) -> None:
    """The cheapest to reload that are enough; where none are enough all that are idle, and never one that is in use."""
    home = harness(100)
    cheap, dear, used = home.add("cheap", 30, seconds=0.001), home.add("dear", 30, seconds=1000.0), home.add("used", 30)
    for model in (cheap, dear):
        home.residency.acquire(model).release()
    with home.residency.leased(used):
        home.budget.limit = 70
        home.residency.settle(home.budget)
        assert [model.state for model in (cheap, dear, used)] == ["not loaded", "loaded", "loaded"]
        assert [model.evictions for model in (cheap, dear, used)] == [1, 0, 0]
        home.budget.limit = 10
        home.residency.settle(home.budget)
        assert [model.state for model in (cheap, dear, used)] == ["not loaded", "not loaded", "loaded"]
    home.residency.settle(home.budget)
    assert used.state == "not loaded"


def test_the_idle_model_that_costs_least_goes(harness: Any) -> None:
    """Reload seconds against time unused decides, not size or age alone."""
    now = [0.0]
    home = harness(100, clock=lambda: now[0])
    for name, seconds in (("slow", 100.0), ("quick", 1.0)):
        home.residency.acquire(home.add(name, 40, seconds=seconds)).release()
        now[0] += 10
    home.residency.acquire(home.add("new", 40)).release()
    assert {name: model.loaded for name, model in home.models.items()} == {"slow": True, "quick": False, "new": True}
    assert home.places["quick"].evictions == 1


def test_nothing_is_evicted_while_memory_is_to_spare(harness: Any) -> None:
    """Kept prefixes go before any model does, and nothing goes that is not needed."""
    home = harness(100)
    a, b = home.add("a", 30), home.add("b", 30)
    home.residency.acquire(a).release()
    assert home.residency.memory.draw(home.models["a"].share, 50)  # prefixes it keeps
    home.residency.acquire(b).release()
    assert home.models["a"].loaded
    assert home.models["b"].loaded
    assert home.models["a"].share.drawn == 0


@pytest.mark.parametrize("order", ["busy first", "idle first"])
def test_the_idle_model_is_trimmed_before_the_busy_one(harness: Any, order: str) -> None:
    """Spare KV memory is taken from the model that nobody uses, and from the busy one only where that was not enough."""
    home = harness(140)
    names = ["busy", "idle"] if order == "busy first" else ["idle", "busy"]
    places = {name: home.add(name, 20) for name in names}
    lease = home.residency.acquire(places["busy"], 5)
    home.residency.acquire(places["idle"], 5).release()
    for name in names:
        assert home.residency.memory.draw(home.models[name].share, 40)
    home.residency.acquire(home.add("new", 40)).release()
    assert {name: home.models[name].share.drawn for name in names} == {"busy": 40, "idle": 0}
    home.residency.acquire(home.add("another", 30)).release()
    assert {name: home.models[name].share.drawn for name in names} == {"busy": 0, "idle": 0}
    assert all(model.loaded for model in home.models.values())
    lease.release()


def test_of_idle_models_the_one_unused_longest_is_trimmed_first(harness: Any) -> None:
    """The prefixes of the model used last are the likeliest to be asked for again."""
    now = [0.0]
    home = harness(140, clock=lambda: now[0])
    for name in ("old", "recent"):
        home.residency.acquire(home.add(name, 20)).release()
        now[0] += 10
    home.residency.acquire(home.places["old"]).release()
    now[0] += 10
    home.residency.acquire(home.places["recent"]).release()
    for name in ("old", "recent"):
        assert home.residency.memory.draw(home.models[name].share, 40)
    home.residency.acquire(home.add("new", 40)).release()
    assert (home.models["old"].share.drawn, home.models["recent"].share.drawn) == (0, 40)


def test_a_pinned_model_stays(harness: Any) -> None:
    home = harness(100)
    home.residency.acquire(home.add("a", 60)).release()
    home.places["a"].pinned = True
    with pytest.raises(ResourceError, match="beside the pinned a"):
        home.residency.acquire(home.add("b", 50))
    home.places["a"].pinned = False
    home.residency.acquire(home.places["b"]).release()
    assert not home.models["a"].loaded


def test_what_can_never_fit_is_refused(harness: Any) -> None:
    """In one sentence, and at once rather than after a wait."""
    home = harness(100)
    with pytest.raises(ResourceError, match=r"The model a needs 101 B .* leaves 100 B"):
        home.residency.acquire(home.add("a", 101))
    home.residency.acquire(home.add("b", 50), 50).release()
    with pytest.raises(ResourceError, match="ask for fewer tokens"):
        home.residency.acquire(home.places["b"], 51)


def test_a_model_larger_than_predicted_makes_room_for_its_real_size(harness: Any) -> None:
    home = harness(100)
    home.residency.acquire(home.add("a", 50)).release()
    home.residency.acquire(home.add("b", 70, predicted=40)).release()
    assert not home.models["a"].loaded
    assert home.budget.used == 70
    with pytest.raises(ResourceError):
        home.residency.acquire(home.add("c", 120, predicted=10))
    home.check()


def test_memory_is_freed_for_those_who_wait_in_their_order(harness: Any) -> None:
    """For a later caller nothing is evicted while an earlier one waits for the same memory, though a loaded model is all that it wants."""
    home = harness(100, clock=lambda: 0.0)  # nobody's patience ends
    busy, idle, grows, large = home.add("busy", 50), home.add("idle", 10), home.add("grows", 30), home.add("large", 95)
    held = home.residency.acquire(busy)
    for model in (idle, grows):
        home.residency.acquire(model).release()
    first, second = Waiter(large, 0, 0.0), Waiter(grows, 15, 0.0)
    for waiter in (first, second):
        home.residency.predict(waiter.model)
        home.residency.queue.append(waiter)
    with home.residency.changes.lock:
        assert home.residency.advance(first) is None, "What is idle is not enough for it."
        assert home.residency.advance(second) is None
    assert home.residency.waiting == 2
    home.residency.leave(first)
    with home.residency.changes.lock:
        evict = home.residency.advance(second)
    assert evict is not None
    evict()
    assert [model.state for model in (busy, idle, grows)] == ["loaded", "not loaded", "loaded"]
    home.residency.leave(second)
    held.release()
    home.check()


def test_a_loaded_model_is_granted_at_once_until_the_patience_of_those_who_wait_is_over(harness: Any) -> None:
    """And one that is pinned always."""
    now = [5.0]
    home = harness(100, clock=lambda: now[0])
    used, large = home.add("used", 60), home.add("large", 90)
    held = home.residency.acquire(used)
    waits = Waiter(large, 0, now[0])
    home.residency.predict(large)
    home.residency.queue.append(waits)
    with home.residency.changes.lock:
        assert home.residency.advance(waits) is None
    granted = []
    for seconds, pinned in ((waits.patience, False), (0.01, False), (0, True)):
        now[0] += seconds
        used.pinned = pinned
        if (lease := home.residency.acquire_now(used)) is not None:
            lease.release()
        granted.append(lease is not None)
    assert granted == [True, False, True]
    home.residency.leave(waits)
    held.release()
    home.check()


def test_one_who_waits_is_not_passed_for_ever(harness: Any) -> None:
    """Though others keep a model busy without a break, the one who waits for its memory gets it."""
    home = harness(100)
    a, b = home.add("a", 60), home.add("b", 60, seconds=0.01)
    over = threading.Event()

    def keep_busy() -> None:
        lease = home.residency.acquire(a)
        while not over.is_set():
            after = home.residency.acquire(a) if not home.residency.waiting else None
            lease.release()
            lease = after or home.residency.acquire(a)
        lease.release()

    def want() -> None:
        home.residency.acquire(b).release()
        over.set()

    assert in_threads(keep_busy, keep_busy, want) == []
    assert home.models["b"].loads == 1


def test_closing_wakes_waiting_requests(harness: Any) -> None:
    home = harness(100)
    a, b = home.add("a", 60), home.add("b", 60)
    lease = home.residency.acquire(a)

    def close_when_waited_for() -> None:
        while not home.residency.waiting:
            threading.Event().wait(0.001)
        home.residency.close(b)

    errors = in_threads(lambda: home.residency.acquire(b), close_when_waited_for)
    assert [type(error) for error in errors] == [ModelClosed]
    lease.release()


def test_keep_alive_unloads_what_is_idle(harness: Any) -> None:
    home = harness(100)
    place = home.add("a", 60, keep_alive=0.0)
    home.residency.acquire(place).release()
    assert home.residency.changes.wait_for(lambda: place.state == "not loaded", 30)
    assert home.budget.used == 0


def test_keep_alive_passes_though_nothing_else_happens(harness: Any) -> None:
    """Beside a model that is in use, and stays."""
    home = harness(100)
    used, idle = home.add("used", 10, keep_alive=0.02), home.add("idle", 10, keep_alive=0.05)
    with home.residency.leased(used):
        home.residency.acquire(idle).release()
        assert home.residency.changes.wait_for(lambda: idle.state == "not loaded", 20)
        assert used.state == "loaded"
    assert home.residency.changes.wait_for(lambda: used.state == "not loaded", 20)


def test_a_model_goes_through_its_states(harness: Any) -> None:
    """Each is told to who looks while it lasts."""
    home = harness(100)
    place, model = home.add("a", 10), home.models["a"]
    seen = [place.state]
    model.slow = lambda: seen.append(place.state)
    unload = model.unload
    model.unload = lambda: (seen.append(place.state), unload())
    home.residency.acquire(place).release()
    seen.append(place.state)
    assert home.residency.unload(place)
    seen.append(place.state)
    home.residency.close(place)
    assert [*seen, place.state] == ["not loaded", "loading", "loaded", "unloading", "not loaded", "closed"]


@settings(max_examples=2 * settings.default.max_examples)
@given(sizes=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10)), max_size=8), missing=st.integers(-5, 200))
def test_victims_are_enough_and_none_too_many(sizes: list[tuple[int, float]], missing: int) -> None:
    candidates = [Candidate(place, size, cost) for place, (size, cost) in enumerate(sizes)]
    chosen = choose_victims(candidates, missing)
    if chosen is None:
        assert sum(size for size, _ in sizes) < missing
        return
    freed = sum(sizes[place][0] for place in chosen)
    assert freed >= missing
    assert all(freed - sizes[place][0] < missing for place in chosen)

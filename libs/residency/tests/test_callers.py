"""Callers that no thread waits for: as many as there are, given up at once, served as those with a thread are."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmasos_hookspecs import EngineFailed, ModelClosed, ResourceError


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine; one that never ends is a caller that was lost."""
    return asyncio.run(asyncio.wait_for(main, 30))


def until(true: Callable[[], object]) -> None:
    for _ in range(3000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("It did not come to be within 30 seconds.")


def working() -> list[str]:
    """Threads of the residency."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llmasos-residency")]


@settings(max_examples=settings.default.max_examples // 2, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.integers(100, 200), surprise=st.booleans(), faults=st.booleans())
def test_random_use_by_tasks_and_threads_that_leave_at_random(harness: Any, seed: int, limit: int, surprise: bool, faults: bool) -> None:
    """Never over budget, no leased model unloaded, nobody waits for ever, and what was given up holds nothing."""
    home = harness(limit)
    draw = random.Random(seed)
    for name in "abcd":
        weights = draw.randint(20, 60)
        home.add(name, weights, predicted=weights // 2 if surprise else None, per_token=draw.randint(0, 2), seconds=draw.random() / 100)
    if faults:
        home.models["d"].failure = EngineFailed("this model never loads")
    users = threading.Lock()

    def hold(name: str, count: int) -> None:
        with users:
            home.models[name].users += count

    async def use(each: random.Random) -> None:
        for _ in range(4):
            name = each.choice("abcd")
            tokens = each.randint(0, 20)
            task = asyncio.create_task(home.residency.acquire_async(home.places[name], tokens))
            if each.random() < 0.4:
                await asyncio.sleep(each.random() / 200)
                task.cancel()
            try:
                lease = await task
            except asyncio.CancelledError:
                continue
            except EngineFailed:
                assert faults
                assert name == "d"
                continue
            hold(name, 1)
            assert home.models[name].loaded
            home.check()
            await asyncio.sleep(0)
            hold(name, -1)
            lease.release()

    def use_in_thread() -> None:
        for name in "abc":
            with home.residency.leased(home.places[name], 5):
                hold(name, 1)
                assert home.models[name].loaded
                hold(name, -1)

    async def main() -> None:
        await asyncio.gather(*(use(random.Random(seed + place)) for place in range(8)), asyncio.to_thread(use_in_thread))

    run(main())
    home.check()
    assert home.residency.queue == []
    assert [place.leases for place in home.places.values()] == [0] * 4
    until(lambda: not working())


def test_many_that_wait_take_no_thread_and_leave_at_once(harness: Any) -> None:
    """A thousand wait for the memory of a model that is in use, with two threads in all; those given up are out of the queue when their
    tasks are."""
    home = harness(100)
    held = home.residency.acquire(home.add("a", 60))
    place = home.add("b", 60)

    async def main() -> None:
        waiting = [asyncio.create_task(home.residency.acquire_async(place)) for _ in range(1000)]
        while len(home.residency.queue) < 1000 or home.residency.waiting < 1:
            await asyncio.sleep(0.001)
        assert len(working()) <= 2
        for task in waiting[1:]:
            task.cancel()
        await asyncio.wait(waiting[1:])
        assert len(home.residency.queue) == 1
        held.release()
        (await waiting[0]).release()

    run(main())
    assert home.models["b"].loaded
    assert (home.residency.queue, place.leases) == ([], 0)


def test_one_that_leaves_during_its_load_leaves_the_model_loaded_and_free(harness: Any) -> None:
    """Another that waits for the same load gets it."""
    home = harness(100)
    place = home.add("a", 50)
    gate, loading = threading.Event(), threading.Event()
    home.models["a"].slow = lambda: (loading.set(), gate.wait(30))

    async def main() -> None:
        first = asyncio.create_task(home.residency.acquire_async(place))
        while not loading.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(home.residency.acquire_async(place))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        (await second).release()

    run(main())
    assert (home.models["a"].loads, place.leases, place.state) == (1, 0, "loaded")


def test_errors_reach_every_task_that_waits(harness: Any) -> None:
    """Of a load, of a prediction, of a model that is closed, and of one that can never fit."""
    home = harness(100)

    async def errors(place: Any) -> list[type]:
        found = await asyncio.gather(*(home.residency.acquire_async(place) for _ in range(4)), return_exceptions=True)
        return [type(each) for each in found]

    fails, unknown, closed = (home.add(name, 50) for name in ("fails", "unknown", "closed"))
    home.models["fails"].failure = EngineFailed("no such kernel")
    home.models["unknown"].need = lambda: (_ for _ in ()).throw(EngineFailed("no such file"))
    home.residency.close(closed)
    assert run(errors(fails)) == [EngineFailed] * 4
    assert run(errors(unknown)) == [EngineFailed] * 4
    assert run(errors(closed)) == [ModelClosed] * 4
    assert run(errors(home.add("large", 101))) == [ResourceError] * 4
    assert home.budget.used == 0
    until(lambda: not working())


def test_what_is_there_is_granted_at_once_and_nothing_is_waited_for(harness: Any) -> None:
    home = harness(100)
    a, b = home.add("a", 60), home.add("b", 60)
    assert home.residency.acquire_now(a) is None, "It is not loaded."
    home.residency.acquire(a).release()
    lease = home.residency.acquire_now(a)
    assert lease is not None
    assert (lease.tokens, a.account.bytes) == (0, 60)
    lease.release()
    lease = home.residency.acquire_now(a, 40)
    assert lease is not None
    assert home.residency.acquire_now(a, 41) is None, "There is no memory for so many tokens."
    assert home.residency.acquire_now(b) is None
    lease.release()
    assert a.leases == 0


def test_a_lease_on_its_way_to_an_event_loop_that_ends_is_given_up(harness: Any) -> None:
    home = harness(100)
    place = home.add("a", 50)

    async def main() -> None:
        asyncio.create_task(home.residency.acquire_async(place))  # noqa: RUF006 - it is left behind on purpose
        await asyncio.sleep(0)

    asyncio.run(main())
    until(lambda: not working())
    assert (home.residency.queue, place.leases) == ([], 0)

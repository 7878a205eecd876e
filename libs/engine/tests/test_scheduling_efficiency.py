"""What the scheduler does with the room it has: recovery after a capacity shortage, and no token computed without need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmasos_hookspecs import CapacityExceeded, Row


class Shortage:
    """An engine fault: steps with a row of more than ``most`` tokens fail for want of memory; None: no step fails."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.refused: list[int] = []

    def __call__(self, rows: Sequence[Row]) -> Exception | None:
        longest = max(len(row.tokens) for row in rows)
        if self.most is None or longest <= self.most:
            return None
        self.refused.append(longest)
        return CapacityExceeded("no memory")


def test_a_shortage_halves_the_rows_until_they_fit(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """A row of 64 tokens that finds room for 6 only is refused at 64, 32, 16 and 8: as often as its length has binary digits, and not
    once for every token."""
    shortage = Shortage(6)
    stepped = make_runner(hash_engine(context_length=200, fault=shortage), fifo, step_tokens=64)
    stepped.add(request_of([1] * 100, 2))
    while not (rows := stepped.step()):
        pass
    assert shortage.refused == [64, 32, 16, 8]
    assert rows == [4]


def test_rows_grow_again_after_a_shortage(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Each step that computes something doubles the row, up to the step's tokens, so that one shortage does not slow a model for good."""
    shortage = Shortage(4)
    stepped = make_runner(hash_engine(context_length=400, fault=shortage), fifo, step_tokens=64)
    stepped.add(request_of([1] * 300, 2))
    while not (rows := stepped.step()):
        pass
    shortage.most = None
    while len(rows) < 7:
        rows += stepped.step()
    assert rows == [4, 8, 16, 32, 64, 64, 64]


def test_a_prompt_is_not_begun_with_the_last_token_of_the_budget(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """One token of a longer prompt would round differently beside other rows, so it is left; a budget of one token in all is used."""
    stepped = make_runner(hash_engine(), fifo, step_tokens=4)
    stepped.add(request_of([1] * 3, 3, ignore_eos=True))
    long, _ = stepped.add(request_of([2] * 6, 3, ignore_eos=True))
    assert stepped.step() == [3]
    assert long.computed == 0
    slow = make_runner(hash_engine(), fifo, step_tokens=1)
    slow.add(request_of([3] * 5, 1, ignore_eos=True))
    assert [slow.step() for _ in range(5)] == [[1]] * 5


def test_a_prompt_of_one_token_takes_a_budget_of_one(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Three decode rows leave one token of a budget of four: a prompt of one token is computed in it, one of two tokens waits."""
    for prompt, rows in (([5], [1, 1, 1, 1]), ([5, 6], [1, 1, 1])):
        stepped = make_runner(hash_engine(), fifo, step_tokens=4)
        for n in range(3):
            stepped.add(request_of([n], 9, ignore_eos=True))
        stepped.step()
        stepped.add(request_of(prompt, 2, ignore_eos=True))
        assert stepped.step() == rows


def test_a_sequence_starts_only_where_those_that_run_have_room_to_grow(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any
) -> None:
    """A prompt that fits exactly into what is free would leave no token to those that run. It waits until they are done, so that nothing is
    preempted and nothing is computed twice."""
    stepped = make_runner(hash_engine(), fifo, capacity=31, keep_prefixes=False)
    running = []
    for n in range(3):
        running.append(stepped.add(request_of([n] * 9, 7, ignore_eos=True))[0])
        stepped.step()
    assert [sequence.state for sequence in running] == ["running", "running", "waiting"]
    stepped.drain()
    assert [sequence.preemptions for sequence in running] == [0, 0, 0]
    assert [sequence.cost for sequence in running] == [15, 15, 15]


def test_memory_that_prompts_being_read_will_take_is_not_given_twice(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any
) -> None:
    """Prompts that are read a few tokens a step hold little yet; of three that do not fit together two start, and none is preempted."""
    fifo.quantum = lambda *_: 4
    stepped = make_runner(hash_engine(), fifo, capacity=100, step_tokens=64, keep_prefixes=False)
    sequences = [stepped.add(request_of([number] * 40, 4, ignore_eos=True))[0] for number in range(3)]
    stepped.runner.step()
    assert [sequence.state for sequence in sequences] == ["running", "running", "waiting"]
    stepped.drain()
    assert [(sequence.generated, sequence.preemptions, sequence.cost) for sequence in sequences] == [(4, 0, 43)] * 3


def test_one_sequence_may_fill_the_cache_alone(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Headroom is kept for others only: a request that needs every token of the cache runs alone."""
    stepped = make_runner(hash_engine(), fifo, capacity=20, keep_prefixes=False)
    _, ticket = stepped.add(request_of([1] * 15, 5, ignore_eos=True))
    stepped.drain()
    assert len(ticket.result().tokens) == 5


SYSTEM = list(range(40))


@pytest.mark.parametrize("lengths", [(10, 30, 20), (30, 20, 10), (20, 10, 30)])
def test_the_longest_cached_prefix_is_reused(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, lengths: tuple[int, ...]
) -> None:
    """Of cached prefixes with 10, 20 and 30 tokens in common the one with 30 is used, in whichever order they were cached."""
    stepped = make_runner(hash_engine(), fifo)
    for shared in lengths:
        stepped.add(request_of([*SYSTEM[:shared], 90, 91], 1))
        stepped.drain()
    found, _ = stepped.add(request_of([*SYSTEM, 70], 1))
    stepped.drain()
    assert (found.cached, found.cost) == (30, 41 - 30)


@pytest.mark.parametrize(("cached", "running"), [(12, 30), (30, 12)])
def test_the_longer_of_a_cached_and_a_running_prefix_is_reused(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, cached: int, running: int
) -> None:
    """Whichever holds more of the prompt, a cached prefix or a running sequence, is forked."""
    stepped = make_runner(hash_engine(), fifo)
    stepped.add(request_of([*SYSTEM[:cached], 90, 91], 1))
    stepped.drain()
    stepped.add(request_of([*SYSTEM[:running], 80, 81], 9, tenant="other", ignore_eos=True))
    stepped.add(request_of([*SYSTEM[:running], 80, 81], 9, ignore_eos=True))
    stepped.step()
    found, _ = stepped.add(request_of([*SYSTEM, 70], 1))
    stepped.step()
    assert found.cached == 30


@pytest.mark.parametrize("lengths", [(12, 30, 20), (30, 20, 12), (20, 12, 30)])
def test_the_longest_running_prefix_is_forked(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, lengths: tuple[int, ...]
) -> None:
    """Of running sequences with 12, 20 and 30 tokens in common the one with 30 is forked, in whichever order they started."""
    stepped = make_runner(hash_engine(), fifo)
    for n, shared in enumerate(lengths):
        stepped.add(request_of([*SYSTEM[:shared], 80 + n, 81], 9, ignore_eos=True))
    stepped.step()
    found, _ = stepped.add(request_of([*SYSTEM, 70], 1))
    stepped.step()
    assert found.cached == 30
    assert stepped.cache.hits == 30

"""What a policy is told when it is asked to admit: load, memory and rates."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos_engine.rates import Rates
from llmasos_hookspecs import Admit, Stats


class Listener:
    """First come, first served; keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Stats] = []

    def admit(self, request: Any, stats: Stats) -> Any:
        self.told.append(stats)
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return (sequence.request.arrival, sequence.request.id)

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        return None

    def quantum(self, sequence: Any, budget: int) -> int:
        return budget

    def on_commit(self, charges: Any) -> None:
        pass


def test_cached_prefixes_do_not_count_as_used(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """``kv_used`` is what running sequences hold; the prefix cache gives its room up when it is needed."""
    policy = Listener()
    stepped = make_runner(hash_engine(), policy, capacity=500)
    stepped.add(request_of([1] * 20, 2, ignore_eos=True))
    stepped.drain()
    assert (stepped.cache.ledger.used, stepped.cache.prefixes.tokens) == (21, 21)
    stepped.add(request_of([2] * 30, 5, ignore_eos=True))
    stepped.step()
    stepped.add(request_of([3] * 7, 5, ignore_eos=True))
    assert [(stats.kv_used, stats.kv_capacity) for stats in policy.told] == [(0, 500), (0, 500), (30, 500)]


def test_the_load_is_told_exactly(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """Sequences and tokens that wait, prompts among them, and those that run; a request that waits for the prompt of another is one that
    waits."""
    policy, now = Listener(), [3.0]
    stepped = make_runner(hash_engine(), policy, clock=lambda: now[0], max_sequences=1, step_tokens=10)
    leader, _ = stepped.add(request_of([1] * 25, 4, ignore_eos=True))
    stepped.step()
    now[0] = 4.5
    stepped.add(request_of([1] * 25, 6, ignore_eos=True), leader)
    stepped.add(request_of([2] * 7, 2, ignore_eos=True))
    stepped.add(request_of([3] * 2, 1, ignore_eos=True))
    empty, running, one, two = policy.told
    assert (empty.now, empty.waiting, empty.running, empty.waiting_tokens, empty.running_tokens) == (3.0, 0, 0, 0, 0)
    assert (running.now, running.waiting, running.running, running.running_tokens) == (4.5, 0, 1, 15 + 4)
    assert (one.waiting, one.waiting_tokens, one.waiting_prompt_tokens, one.running_tokens) == (1, 31, 25, 19)
    assert (two.waiting, two.waiting_tokens, two.waiting_prompt_tokens, two.running_tokens) == (2, 31 + 9, 25 + 7, 19)


def test_the_rates_are_those_of_the_steps(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """A prompt of 40 tokens in 2 seconds, then one decode row of half a second: 20 and 2 tokens a second."""
    policy, now, seconds = Listener(), [0.0], [2.0]

    def advance(rows: Any) -> None:
        now[0] += seconds[0]

    stepped = make_runner(hash_engine(fault=advance), policy, clock=lambda: now[0])
    stepped.add(request_of([1] * 40, 6, ignore_eos=True))
    stepped.step()
    seconds[0] = 0.5
    stepped.step()
    stepped.add(request_of([2], 1))
    assert (policy.told[0].prefill_rate, policy.told[0].decode_rate) == (0.0, 0.0)
    assert (policy.told[1].prefill_rate, policy.told[1].decode_rate) == (20.0, 2.0)


def test_a_mixed_step_charges_decode_its_usual_time() -> None:
    """Ten decode tokens at 100 a second take 0.1 of the 0.6 seconds; the 40 prompt tokens took the other 0.5: 80 a second."""
    rates = Rates()
    rates.add(0, 10, 0.1)
    rates.add(40, 10, 0.6)
    assert rates.decode == pytest.approx(100.0)
    assert rates.prefill == pytest.approx(80.0)


def test_a_mixed_step_is_split_by_tokens_where_decode_s_usual_time_is_longer() -> None:
    """Decode usually takes longer than the whole step did: the prompt's share of it is that of its tokens, never zero."""
    rates = Rates()
    rates.add(0, 10, 1.0)
    rates.add(30, 10, 0.4)
    assert rates.prefill == pytest.approx(100.0)
    assert rates.decode == pytest.approx(10.0)


def test_a_mixed_step_before_any_decode_step_is_the_prompt_s() -> None:
    """Without a decode rate the whole step counts for the prompt."""
    rates = Rates()
    rates.add(20, 2, 0.5)
    assert (rates.prefill, rates.decode) == (40.0, 0.0)


@pytest.mark.parametrize("after", [5.0, 20.0])
def test_a_rate_follows_the_machine_both_ways(after: float) -> None:
    """It is neither the fastest nor the slowest that was seen: ten seconds at another rate bring it half of the way, a minute all of it."""
    rates = Rates()
    for _ in range(60):
        rates.add(0, 10, 1.0)
        rates.add(10, 0, 1.0)
    for _ in range(10):
        rates.add(0, round(after), 1.0)
        rates.add(round(after), 0, 1.0)
    half = (10.0 + after) / 2
    assert rates.decode == pytest.approx(half, rel=0.02)
    assert rates.prefill == pytest.approx(half, rel=0.02)
    for _ in range(60):
        rates.add(0, round(after), 1.0)
    assert rates.decode == pytest.approx(after, rel=0.02)
    assert rates.prefill == pytest.approx(half, rel=0.02)

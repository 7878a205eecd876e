"""Decisions of the scheduling mechanism, one at a time."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llmasos_hookspecs import Admit


class Urgent:
    """By priority, and preempts what is strictly less urgent."""

    def admit(self, request: Any, stats: Any) -> Any:
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return (-sequence.request.priority, sequence.request.arrival)

    def victim(self, running: Any, needy: Any, now: float) -> Any:
        worst = max(running, key=lambda sequence: self.rank(sequence, now))
        return worst.request.id if worst.request.priority < needy.request.priority else None

    def quantum(self, sequence: Any, budget: int) -> int:
        return budget

    def on_commit(self, charges: Any) -> None:
        pass


def test_prompts_are_read_in_chunks_beside_decoding(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """A long prompt takes what a step has left beside the tokens of those that decode, and nobody waits for it."""
    harness = make_runner(hash_engine(), fifo, step_tokens=10)
    short, _ = harness.add(request_of([1, 2, 3], 20, ignore_eos=True))
    harness.runner.step()
    long, _ = harness.add(request_of([7] * 34, 5, ignore_eos=True))
    for step in range(3):
        harness.runner.step()
        assert sorted(len(row.tokens) for row in harness.engine.steps[-1]) == [1, 9]
        assert short.generated == 2 + step
    assert long.computed == 27
    harness.drain()


def test_the_quantum_bounds_a_prompt_s_share(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """A policy that gives a prompt 4 tokens a step leaves the rest to the next one."""
    fifo.quantum = lambda *_: 4
    harness = make_runner(hash_engine(), fifo, step_tokens=12)
    for _ in range(3):
        harness.add(request_of([1] * 20, 2))
    harness.runner.step()
    harness.runner.step()
    assert [len(row.tokens) for row in harness.engine.steps[-1]] == [4, 4, 4]
    harness.drain()


def test_an_urgent_request_takes_a_slot_and_the_other_goes_on_after_it(
    hash_engine: Any, make_runner: Any, request_of: Any, expected: Any
) -> None:
    """The victim computes nothing twice where the engine has a slot to keep its KV in, and its text is unchanged."""
    for slots, recomputed in ((3, 0), (1, 1)):
        harness = make_runner(hash_engine(max_sequences=slots), Urgent(), max_sequences=1)
        calm, calm_ticket = harness.add(request_of(list(range(20)), 10, ignore_eos=True))
        for _ in range(4):
            harness.runner.step()
        urgent, urgent_ticket = harness.add(request_of([50, 51], 3, priority=1, ignore_eos=True))
        harness.runner.step()
        assert (calm.state, urgent.state) == ("preempted", "running")
        harness.drain()
        assert calm.preemptions == 1
        assert urgent_ticket.result().finish_reason == "length"
        assert (calm.cost > 20 + 9 + 2) == bool(recomputed)
        plain = make_runner(hash_engine(), Urgent())
        _, alone = plain.add(request_of(list(range(20)), 10, ignore_eos=True))
        plain.drain()
        assert calm_ticket.result().tokens == alone.result().tokens


def test_a_victim_is_safe_until_it_has_gained_something(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """A policy that always preempts only makes things slow: each preemption costs somebody a token of progress first."""
    fifo.victim = lambda running, *_: running[0].request.id
    harness = make_runner(hash_engine(max_sequences=1), fifo, max_sequences=1, keep_prefixes=False)
    sequences = [harness.add(request_of([i] * 10, 5, ignore_eos=True))[0] for i in range(4)]
    harness.drain()
    for sequence in sequences:
        assert sequence.generated == 5
        assert sequence.preemptions <= 15


def test_the_worst_is_preempted_when_nothing_can_move(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """Two sequences that fill the KV cache: the later one is preempted, the first runs to its end, then the later one does."""
    harness = make_runner(hash_engine(), fifo, capacity=50, keep_prefixes=False)
    first, _ = harness.add(request_of([1] * 10, 30, ignore_eos=True))
    second, _ = harness.add(request_of([2] * 10, 30, ignore_eos=True))
    while second.preemptions == 0:
        assert harness.runner.step()
    assert first.preemptions == 0
    while first.state != "finished":
        harness.runner.step()
        assert second.state == "preempted" or second.preemptions == 1
    harness.drain()
    assert second.generated == 30
    assert harness.engine.peak <= 50


def test_continuations_wait_for_the_prompt_they_share(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """A follower starts once its leader has read the prompt, and computes two tokens of it; where the leader goes, it starts itself."""
    harness = make_runner(hash_engine(), fifo, step_tokens=10)
    leader, _ = harness.add(request_of(list(range(40)), 3))
    follower, _ = harness.add(request_of(list(range(40)), 3, temperature=1.0, seed=1), leader)
    for _ in range(3):
        harness.runner.step()
        assert (follower.state, follower.computed) == ("waiting", 0)
        assert harness.scheduler.stats().waiting == 1
    harness.drain()
    assert (leader.cached, follower.cached) == (0, 38)
    orphan_leader, _ = harness.add(request_of([3] * 40, 3))
    _, orphan_ticket = harness.add(request_of([3] * 40, 3), orphan_leader)
    harness.runner.step()
    harness.runner.cancel(orphan_leader.request.id)
    harness.drain()
    assert orphan_ticket.result().tokens


def test_a_cancelled_follower_is_gone(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """It never starts, and its caller hears of it."""
    harness = make_runner(hash_engine(), fifo, step_tokens=10)
    leader, _ = harness.add(request_of(list(range(40)), 3))
    request = request_of(list(range(40)), 3)
    _, ticket = harness.add(request, leader)
    harness.runner.cancel(request.id)
    assert ticket.result().finish_reason == "cancelled"
    harness.drain()
    assert harness.runner.idle


@pytest.mark.parametrize("method", ["admit", "rank", "victim", "quantum", "on_commit"])
def test_a_broken_policy_is_named_once(
    hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which method failed and how, once; everyone is served."""

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("oh dear")

    setattr(fifo, method, fail)
    harness = make_runner(hash_engine(), fifo, max_sequences=1)
    tickets = [harness.add(request_of([i, 2], 4))[1] for i in range(5)]
    with caplog.at_level(logging.WARNING):
        harness.drain()
    assert all(ticket.result().tokens for ticket in tickets)
    assert caplog.text.count("oh dear") <= 1
    if method not in ("admit", "rank"):  # those two are asked before the log is watched
        assert f"Fifo failed in {method}" in caplog.text


def test_views_count_what_is_left(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """``remaining`` falls from prompt and new tokens to nothing, by what each step does."""
    harness = make_runner(hash_engine(), fifo, step_tokens=5)
    sequence, _ = harness.add(request_of([1] * 10, 4, ignore_eos=True))
    seen = [sequence.remaining]
    while harness.runner.step() and sequence.state == "running":
        seen.append(sequence.remaining)
    assert seen == [14, 9, 3, 2, 1]
    assert sequence.remaining == 0 or sequence.state == "finished"


def test_waiting_is_counted_by_the_clock(hash_engine: Any, make_runner: Any, request_of: Any) -> None:
    """``waited`` grows only while a sequence has no slot."""
    now = [10.0]
    harness = make_runner(hash_engine(max_sequences=2), Urgent(), clock=lambda: now[0], max_sequences=1)
    calm, _ = harness.add(request_of([1] * 10, 20, ignore_eos=True))
    now[0] = 12.0
    harness.runner.step()
    now[0] = 15.0
    assert calm.waited == 2.0
    harness.runner.step()
    urgent, _ = harness.add(request_of([2] * 10, 2, priority=1, ignore_eos=True))
    harness.runner.step()
    assert calm.state == "preempted"
    now[0] = 18.0
    assert (calm.waited, urgent.waited) == (calm.view().waited, urgent.view().waited) == (5.0, 0.0)
    harness.drain()
    assert calm.waited == 5.0


@pytest.mark.parametrize(("chosen", "preempted"), [(1, 1), (None, 2)])
def test_where_none_can_advance_the_policy_chooses_who_goes_else_the_worst_ranked(
    hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any, chosen: int | None, preempted: int
) -> None:
    """Of three that run; the best-ranked one never goes, and it is the one that the policy is told of."""
    harness = make_runner(hash_engine(), fifo)
    sequences = [harness.add(request_of([n] * 4, 20, ignore_eos=True))[0] for n in range(3)]
    harness.runner.step()
    needy: list[Any] = []

    def victim(running: Any, best: Any, now: float) -> str | None:
        needy.append(best.request.id)
        return None if chosen is None else sequences[chosen].request.id

    fifo.victim = victim
    harness.scheduler.make_room()
    assert [sequence.state for sequence in sequences] == ["preempted" if n == preempted else "running" for n in range(3)]
    assert needy == [sequences[0].request.id]


def test_a_policy_is_told_prompt_and_answer_apart(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """Five tokens of a prompt, then one of its answer a step."""
    charges: list[Any] = []
    fifo.on_commit = charges.extend
    harness = make_runner(hash_engine(), fifo)
    harness.add(request_of([1, 2, 3, 4, 5], 3, id="a", tenant="t", weight=2.5, ignore_eos=True))
    for _ in range(3):
        harness.runner.step()
    assert {(each.id, each.tenant, each.weight) for each in charges} == {("a", "t", 2.5)}
    assert [(each.prefill_tokens, each.decode_tokens, each.finished) for each in charges] == [(5, 0, False), (0, 1, False), (0, 1, True)]


@pytest.mark.parametrize("keep", [True, False])
def test_keys_and_values_that_may_be_wrong_are_not_kept(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any, keep: bool) -> None:
    harness = make_runner(hash_engine(), fifo)
    sequence, _ = harness.add(request_of(list(range(12)), 20, ignore_eos=True))
    harness.runner.step()
    harness.scheduler.finish(sequence, keep=keep)
    assert (harness.scheduler.cache.prefixes.tokens > 0) is keep


def test_where_the_engine_is_lost_no_prefix_is_left(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """Neither cached nor counted: the slots were that engine's. What ran is queued again."""
    harness = make_runner(hash_engine(), fifo)
    ended, _ = harness.add(request_of(list(range(12)), 20, ignore_eos=True))
    running, _ = harness.add(request_of([7] * 12, 20, ignore_eos=True))
    harness.runner.step()
    harness.scheduler.finish(ended)
    assert harness.scheduler.cache.prefixes.tokens > 0
    harness.scheduler.drop_slots()
    assert (harness.scheduler.cache.prefixes.tokens, harness.scheduler.cache.ledger.used, running.state) == (0, 0, "preempted")


def test_what_ended_under_a_policy_is_told_to_that_one(hash_engine: Any, make_runner: Any, request_of: Any, fifo: Any) -> None:
    """Also where another one follows it before the step has ended, which never knew the request."""
    old: list[Any] = []
    new: list[Any] = []
    fifo.on_commit = old.extend
    harness = make_runner(hash_engine(), fifo)
    sequence, _ = harness.add(request_of([1, 2], 9, ignore_eos=True))
    harness.runner.step()
    harness.scheduler.finish(sequence)
    following = Urgent()
    following.on_commit = new.extend
    harness.scheduler.use_policy(following)
    harness.scheduler.settle()
    assert [(each.id, each.finished) for each in old[-1:]] == [(sequence.request.id, True)]
    assert new == []

"""What a policy is told while sequences run: the time, charges, candidates for preemption; and what it decides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import Admit, Stats


class Listener:
    """By priority, then first come first served; keeps every call."""

    def __init__(self) -> None:
        self.times: set[tuple[str, Any]] = set()
        self.told: list[Stats] = []
        self.asked: list[str] = []
        self.charges: list[Any] = []
        self.victims: list[tuple[list[str], str]] = []
        self.choose: Callable[[Any, Any], str | None] = lambda *_: None

    def admit(self, request: Any, stats: Stats) -> Any:
        self.told.append(stats)
        self.asked.append(request.id)
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        self.times.add(("rank", now))
        return (-sequence.request.priority, sequence.request.arrival)

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        self.times.add(("victim", now))
        self.victims.append(([sequence.request.id for sequence in running], needy.request.id))
        return self.choose(running, needy)

    def quantum(self, sequence: Any, budget: int) -> int:
        return budget

    def on_commit(self, charges: Any) -> None:
        self.charges += [(charge.id, charge.prefill_tokens, charge.decode_tokens, charge.finished) for charge in charges]


def test_charges_are_the_tokens_of_each_step(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """Prompt chunks and decode rows by request, and the end of each; one that is cancelled before it ran is charged nothing."""
    policy = Listener()
    stepped = make_runner(hash_engine(), policy, step_tokens=10, max_sequences=1)
    stepped.add(request_of([1] * 25, 3, id="a", ignore_eos=True))
    stepped.add(request_of([2] * 5, 3, id="b"))
    stepped.runner.cancel("b")
    stepped.drain()
    assert policy.charges == [
        ("b", 0, 0, True),
        ("a", 10, 0, False),
        ("a", 10, 0, False),
        ("a", 5, 0, False),
        ("a", 0, 1, False),
        ("a", 0, 1, True),
    ]


def test_charges_add_up_until_they_are_reported(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """Steps that end without a report, as after a failure, are in the next one."""
    policy = Listener()
    stepped = make_runner(hash_engine(), policy, step_tokens=10)
    sequence, _ = stepped.add(request_of([1] * 25, 9, id="a"))
    for step in range(6):
        planned = stepped.scheduler.plan()
        stepped.scheduler.commit(planned)
        if step >= 2:
            sequence.append(3)
    stepped.scheduler.settle()
    stepped.scheduler.settle()
    assert policy.charges == [("a", 25, 3, False)]
    assert (sequence.computed, sequence.cost) == (28, 28)


def test_every_call_has_the_time_of_the_clock(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """Queued, started, preempted, cancelled while waiting, released as a follower, after a lost engine, under a new policy."""
    now = [7.0]
    policy = Listener()
    stepped = make_runner(hash_engine(), policy, clock=lambda: now[0], max_sequences=2, step_tokens=10, capacity=100)
    policy.choose = lambda running, needy: running[-1].request.id if needy.request.priority else None
    sequences = [stepped.add(request_of([n] * 12, 4, ignore_eos=True))[0] for n in range(4)]
    stepped.step()
    leader, _ = stepped.add(request_of([9] * 12, 4, priority=1, ignore_eos=True))
    stepped.add(request_of([9] * 12, 4, priority=1, ignore_eos=True), leader)
    stepped.runner.cancel(sequences[3].request.id)
    for _ in range(4):
        stepped.step()
    stepped.scheduler.make_room()
    stepped.scheduler.drop_slots()
    assert {sequence.state for sequence in stepped.scheduler.sequences()} <= {"preempted", "waiting"}
    after = Listener()
    stepped.scheduler.use_policy(after)
    assert policy.times == {("rank", 7.0), ("victim", 7.0)}
    assert after.times == {("rank", 7.0)}
    assert all(isinstance(stats, Stats) for stats in after.told)
    assert len(after.told) == len(stepped.scheduler.sequences()) > 0
    assert sorted(after.asked) == sorted(each.request.id for each in stepped.scheduler.sequences())


def test_a_new_policy_is_named_in_messages(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By its class and its plugin; without a plugin by its class alone."""
    for label, name in (("scheduler x of y 1.0", "Listener (scheduler x of y 1.0)"), ("", "Listener")):
        caplog.clear()
        broken = Listener()
        broken.rank = lambda *_: 1 / 0
        stepped = make_runner(hash_engine(), fifo, max_sequences=1)
        for n in range(3):
            stepped.add(request_of([n] * 3, 2))
        with caplog.at_level(logging.WARNING):
            stepped.scheduler.use_policy(broken, label=label) if label else stepped.scheduler.use_policy(broken)
            stepped.drain()
        assert caplog.messages[0].startswith(f"The scheduling policy {name} failed in rank (")


def test_the_policy_chooses_whom_to_preempt_where_none_can_advance(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """It is asked about all but the best, on behalf of the best; without an answer the worst is preempted."""
    for choose, expected in ((lambda *_: "b", "b"), (lambda *_: None, "c")):
        policy = Listener()
        policy.choose = choose
        stepped = make_runner(hash_engine(), policy)
        sequences = {name: stepped.add(request_of([1, 2, 3], 9, id=name, ignore_eos=True))[0] for name in "abc"}
        stepped.step()
        policy.victims.clear()
        stepped.scheduler.make_room()
        assert policy.victims == [(["b", "c"], "a")]
        assert [name for name, sequence in sequences.items() if sequence.state == "preempted"] == [expected]
        assert sequences[expected] in stepped.scheduler.waiting
        stepped.step()
        assert sequences[expected].state == "running", "Without hold= a preempted sequence may start at once."
        stepped.scheduler.make_room()
        assert stepped.scheduler.preempted == 2


def test_after_an_error_nothing_is_cached(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """``keep=False`` closes the slot; otherwise its keys and values are kept for later prompts."""
    for how, kept in (({"keep": False}, 0), ({}, 1)):
        stepped = make_runner(hash_engine(), fifo)
        sequence, _ = stepped.add(request_of([1] * 12, 9, ignore_eos=True))
        stepped.step()
        stepped.scheduler.finish(sequence, **how)
        assert (len(stepped.cache.prefixes), len(stepped.engine.slots)) == (kept, kept)


def test_followers_start_with_the_step_after_their_prompt(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """As soon as the leader has computed its prompt, and at once where it is preempted."""
    for preempted in (False, True):
        stepped = make_runner(hash_engine(), fifo, step_tokens=10)
        leader, _ = stepped.add(request_of([1] * 20, 9, ignore_eos=True))
        follower, _ = stepped.add(request_of([1] * 20, 9, ignore_eos=True), leader)
        other, _ = stepped.add(request_of([2] * 5, 9, ignore_eos=True))
        stepped.step()
        assert follower not in stepped.scheduler.waiting
        if preempted:
            stepped.scheduler.preempt(leader)
        else:
            stepped.step()
            assert leader.computed == 20
        assert follower in stepped.scheduler.waiting
        stepped.drain()
        assert (follower.generated, other.generated) == (9, 9)


def test_drafts_share_what_the_decode_rows_leave_of_a_step(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Of 10 tokens three rows take one each: the first may draft 7, the next what is left, and none is asked where nothing is."""
    stepped = make_runner(hash_engine(), fifo, step_tokens=10)
    sequences = [stepped.add(request_of([n, n, 5], 30, ignore_eos=True))[0] for n in range(3)]
    stepped.step()
    asked: list[tuple[Any, int]] = []

    def drafter(sequence: Any, most: int) -> tuple[int, ...]:
        asked.append((sequence, most))
        return (1,) * min(most, 6)

    for sequence in sequences:
        sequence.drafter = drafter
    assert [len(part.row.tokens) for part in stepped.scheduler.plan()] == [7, 2, 1]
    assert asked == [(sequences[0], 7), (sequences[1], 1)]


def test_a_draft_is_no_longer_than_a_row(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """After a capacity shortage a row has fewer tokens than a step; its draft has one less, the sampled token being in the row too."""
    stepped = make_runner(hash_engine(), fifo, step_tokens=10)
    sequence, _ = stepped.add(request_of([1, 2, 3], 30, ignore_eos=True))
    stepped.step()
    stepped.scheduler.row_tokens = 4
    asked: list[int] = []
    sequence.drafter = lambda _, most: asked.append(most) or (1,) * most
    assert [len(part.row.tokens) for part in stepped.scheduler.plan()] == [4]
    assert asked == [3]


def test_a_rewound_sequence_holds_what_is_left(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """In the engine, the ledger and the sequence alike; to its own length or a longer one nothing happens."""
    stepped = make_runner(hash_engine(), fifo)
    sequence, _ = stepped.add(request_of([1] * 12, 9, ignore_eos=True))
    stepped.step()
    truncated: list[int] = []
    truncate = stepped.engine.truncate
    stepped.engine.truncate = lambda slot, length: (truncated.append(length), truncate(slot, length))
    for length in (13, 12, 5):
        stepped.scheduler.rewind(sequence, length)
    assert truncated == [5]
    assert (sequence.computed, stepped.cache.ledger.held(sequence.slot), len(stepped.engine.slots[sequence.slot])) == (5, 5, 5)


def test_the_first_policy_is_named_with_its_plugin(make_loop: Any, hash_engine: Any) -> None:
    loop = make_loop(hash_engine(), Listener(), policy_label="scheduler x of y 1.0")
    assert repr(loop._scheduler.policy) == "the scheduling policy Listener (scheduler x of y 1.0)"


def test_a_policy_is_not_asked_for_a_victim_among_none(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """A sequence that has gained nothing since it started cannot be preempted."""
    policy = Listener()
    stepped = make_runner(hash_engine(), policy, max_sequences=1)
    stepped.add(request_of([1] * 5, 3, id="a", ignore_eos=True))
    stepped.add(request_of([2] * 5, 3, id="b", priority=1, ignore_eos=True))
    stepped.scheduler.plan()
    assert policy.victims == []


def test_rows_grow_to_double_with_each_step_that_computes(make_runner: Any, hash_engine: Any, fifo: Any) -> None:
    """After an engine was short of memory, up to the tokens of a step."""
    scheduler = make_runner(hash_engine(), fifo, step_tokens=20).scheduler
    scheduler.row_tokens = 3
    found = []
    for _ in range(4):
        scheduler.moved()
        found.append(scheduler.row_tokens)
    assert found == [6, 12, 20, 20]

"""What bounds the scheduling mechanism in one step: tokens, slots, room to grow, preemptions; and who comes first where they are short."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos_engine.scoring import LogitsWork
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import Admit


class ByPriority:
    """The highest priority first; preempts the least urgent of those that are less urgent. ``quantum``: a prompt's tokens a step."""

    def __init__(self, quantum: int = 1000) -> None:
        self.most = quantum

    def admit(self, request: Any, stats: Any) -> Any:
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return (-sequence.request.priority, sequence.request.arrival)

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        worst = max(running, key=lambda sequence: self.rank(sequence, now))
        return worst.request.id if worst.request.priority < needy.request.priority else None

    def quantum(self, sequence: Any, budget: int) -> int:
        return min(self.most, budget)

    def on_commit(self, charges: Any) -> None:
        pass


def states(sequences: list[Any]) -> list[str]:
    return [sequence.state for sequence in sequences]


def test_no_sequence_starts_where_prompts_fill_the_step(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Prompts of 10 tokens and a step of 10: one starts a step. With one token less the next one starts beside it, for that token."""
    for length, started in ((10, ["running", "waiting"]), (9, ["running", "running"])):
        stepped = make_runner(hash_engine(), fifo, step_tokens=10)
        sequences = [stepped.add(request_of([n] * length, 3, ignore_eos=True))[0] for n in range(2)]
        stepped.scheduler.plan()
        assert states(sequences) == started


def test_a_step_preempts_four_at_most(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """Six urgent requests for six slots: four get theirs in this step, the other two in the next one."""
    stepped = make_runner(hash_engine(), ByPriority(), max_sequences=6)
    calm = [stepped.add(request_of([n, n], 20, ignore_eos=True))[0] for n in range(6)]
    stepped.step()
    urgent = [stepped.add(request_of([50 + n, 3], 20, priority=1, ignore_eos=True))[0] for n in range(6)]
    for preempted in (4, 6):
        stepped.step()
        assert states(calm) == ["running"] * (6 - preempted) + ["preempted"] * preempted
        assert states(urgent) == ["running"] * preempted + ["waiting"] * (6 - preempted)


@pytest.mark.parametrize("enough", [True, False])
def test_eight_tokens_are_kept_for_each_that_runs(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, enough: bool) -> None:
    """Two that decode hold 5 tokens each and may grow by 8; a prompt of 6 and its first new token need 7: 33 in all, and not one less."""
    stepped = make_runner(hash_engine(), fifo, capacity=33 if enough else 32, keep_prefixes=False)
    for n in range(2):
        stepped.add(request_of([n] * 5, 9, ignore_eos=True))
    stepped.step()
    late, _ = stepped.add(request_of([7] * 6, 2, ignore_eos=True))
    stepped.scheduler.plan()
    assert late.state == ("running" if enough else "waiting")


@pytest.mark.parametrize("enough", [True, False])
def test_what_a_prompt_has_yet_to_take_is_promised_to_it(make_runner: Any, hash_engine: Any, request_of: Any, enough: bool) -> None:
    """A prompt of 20 tokens holds 4 after a step, and 16 are promised to it: with 8 to grow, and 7 of the next one, 35 in all."""
    stepped = make_runner(hash_engine(), ByPriority(quantum=4), capacity=35 if enough else 34, keep_prefixes=False)
    stepped.add(request_of([1] * 20, 5, ignore_eos=True))
    stepped.step()
    late, _ = stepped.add(request_of([7] * 6, 2, ignore_eos=True))
    stepped.scheduler.plan()
    assert late.state == ("running" if enough else "waiting")


def test_logits_of_a_prompt_need_no_room_for_a_new_token(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """A prompt that fills the cache to its last token starts where nothing follows it."""
    stepped = make_runner(hash_engine(), fifo, capacity=10, keep_prefixes=False)
    request = request_of([1] * 10, 1)
    ticket: Ticket[Any] = Ticket(request.id, lambda: None)
    stepped.runner.add(request, LogitsWork(ticket))
    stepped.drain()
    assert ticket.result().shape == (10, stepped.engine.info.vocab_size)


@pytest.mark.parametrize("short_of", ["tokens", "memory"])
def test_the_best_ranked_decode_first_where_not_all_can(make_runner: Any, hash_engine: Any, request_of: Any, short_of: str) -> None:
    """Whatever came first: of three that decode, two have a place in the step, or two tokens are free; the third waits for the next."""
    stepped = make_runner(hash_engine(), ByPriority(), capacity=1000, keep_prefixes=False)
    sequences = []
    for n in range(3):
        sequences.append(stepped.add(request_of([n, n], 20, priority=n, ignore_eos=True))[0])
        stepped.step()
    if short_of == "tokens":
        stepped.scheduler.step_tokens = 2
    else:
        stepped.cache.ledger.capacity = stepped.cache.ledger.used + 2
    assert [part.sequence for part in stepped.scheduler.plan()] == [sequences[2], sequences[1]]


def test_the_best_ranked_prompt_is_read_first(make_runner: Any, hash_engine: Any, request_of: Any) -> None:
    """A prompt that is being read goes behind an urgent one that started after it, and takes what that leaves of the step."""
    stepped = make_runner(hash_engine(), ByPriority(), step_tokens=10)
    calm, _ = stepped.add(request_of([1] * 12, 3, ignore_eos=True))
    stepped.step()
    urgent, _ = stepped.add(request_of([2] * 8, 3, priority=1, ignore_eos=True))
    assert [(part.sequence, len(part.row.tokens)) for part in stepped.scheduler.plan()] == [(urgent, 8), (calm, 2)]


def test_after_a_shortage_nothing_starts_until_something_was_computed(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any
) -> None:
    """What was preempted for want of the engine's memory would take it again at once; it starts with the step after one that computed."""
    stepped = make_runner(hash_engine(), fifo)
    first, second = (stepped.add(request_of([n] * 4, 9, ignore_eos=True))[0] for n in range(2))
    stepped.step()
    stepped.scheduler.make_room(hold=True)
    assert states([first, second]) == ["running", "preempted"]
    stepped.step()
    assert second.state == "preempted"
    stepped.step()
    assert second.state == "running"


def test_a_hold_holds_nothing_where_nothing_runs(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Else what waits would wait for ever, once the others have been cancelled."""
    stepped = make_runner(hash_engine(), fifo)
    first, second = (stepped.add(request_of([n] * 4, 9, ignore_eos=True))[0] for n in range(2))
    stepped.step()
    stepped.scheduler.make_room(hold=True)
    stepped.runner.cancel(first.request.id)
    stepped.step()
    assert second.state == "running"


@pytest.mark.parametrize("was", ["waiting", "preempted"])
def test_a_request_cancelled_while_it_waits_leaves_nothing(make_runner: Any, hash_engine: Any, request_of: Any, was: str) -> None:
    """Whether it never ran or was preempted: it is not counted any more, and its slot is nobody's."""
    stepped = make_runner(hash_engine(), ByPriority(), max_sequences=1, keep_prefixes=False)
    calm, ticket = stepped.add(request_of([1] * 10, 9, ignore_eos=True))
    if was == "preempted":
        stepped.step()
    stepped.add(request_of([2] * 4, 9, priority=1, ignore_eos=True))
    stepped.step()
    assert calm.state == was
    stepped.runner.cancel(calm.request.id)
    assert ticket.result().finish_reason == "cancelled"
    stats = stepped.scheduler.stats()
    assert (stats.waiting, stats.waiting_tokens, stats.waiting_prompt_tokens, stats.running) == (0, 0, 0, 1)
    assert len(stepped.engine.slots) == 1
    stepped.drain()
    assert calm.state == "finished"


def test_a_preempted_sequence_must_pass_where_it_was_before_it_can_be_preempted_again(
    make_runner: Any, hash_engine: Any, request_of: Any
) -> None:
    """What it recomputes is no progress: an urgent request that comes meanwhile waits until it has a new token."""
    stepped = make_runner(hash_engine(), ByPriority(quantum=4), max_sequences=1, keep_prefixes=False)
    calm, _ = stepped.add(request_of([1] * 10, 9, ignore_eos=True))
    for _ in range(3):
        stepped.step()
    assert calm.computed == 10
    stepped.add(request_of([2], 1, priority=1, ignore_eos=True))
    stepped.step()
    stepped.step()
    assert (calm.state, calm.computed, calm.preemptions) == ("running", 4, 1)
    urgent, _ = stepped.add(request_of([3], 1, priority=1, ignore_eos=True))
    while calm.computed < 11:
        assert urgent.state == "waiting"
        stepped.step()
    stepped.step()
    assert (calm.preemptions, urgent.state) == (2, "finished")


def test_a_new_policy_keeps_the_limits_that_it_does_not_name(make_runner: Any, hash_engine: Any, fifo: Any) -> None:
    """Rows are as long as a step again, whatever a shortage made of them."""
    scheduler = make_runner(hash_engine(), fifo, max_sequences=3, step_tokens=20).scheduler
    scheduler.row_tokens = 5
    scheduler.use_policy(ByPriority())
    assert (scheduler.max_sequences, scheduler.step_tokens, scheduler.row_tokens) == (3, 20, 20)
    scheduler.use_policy(ByPriority(), max_sequences=2, step_tokens=8)
    assert (scheduler.max_sequences, scheduler.step_tokens, scheduler.row_tokens) == (2, 8, 8)
    plain = make_runner(hash_engine(), fifo).scheduler
    assert (plain.max_sequences, plain.step_tokens, plain.row_tokens) == (8, 512, 512)
    assert repr(plain.policy) == "the scheduling policy Fifo"


def test_drafts_take_what_a_step_has_left(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Of a step of six two sequences take a token each; the first one's draft gets the other four, and none is left for the second's."""
    stepped = make_runner(hash_engine(), fifo, step_tokens=6)
    sequences = [stepped.add(request_of([n, n], 20, ignore_eos=True))[0] for n in range(2)]
    stepped.step()
    for sequence in sequences:
        sequence.drafter = lambda _, most: [1] * most
    assert [len(part.row.tokens) for part in stepped.scheduler.plan()] == [5, 1]

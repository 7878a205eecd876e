"""Drafts from earlier text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmasos_engine.generation import GenerationWork
from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.prompt_lookup import PromptLookup
from llmasos_engine.runner import Runner
from llmasos_engine.scheduler import Scheduler
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import Generation, Request, SamplingParams


class Parrot:
    """Makes an engine repeat what came ``period`` tokens ago, so that drafts come true, with a surprise now and then."""

    def __init__(self, engine: Any, period: int, surprise: int) -> None:
        self.surprise = surprise
        self.period = period
        self.plain = engine.logits
        engine.logits = self.logits

    def logits(self, tokens: Any) -> Any:
        logits = self.plain(tokens)
        if len(tokens) >= self.period and len(tokens) % self.surprise:
            logits = logits.copy()
            logits[tokens[-self.period]] += 50
        return logits


def run(engine: Any, request: Request, fifo_policy: Any, tokenizer: Any, **limits: Any) -> Generation:
    """The answer, stepping without a thread."""
    runner = Runner(engine, Scheduler(fifo_policy(), KVSlots(engine, KVLedger(2000)), clock=lambda: 0.0, **limits), clock=lambda: 0.0)
    ticket: Ticket[Generation] = Ticket(request.id, lambda: None)
    runner.add(request, GenerationWork(request, tokenizer, ticket))
    while runner.step():
        pass
    assert sum(len(held) for held in engine.slots.values()) == runner.scheduler.cache.ledger.used
    return ticket.result()


@settings(max_examples=settings.default.max_examples // 2)
@given(
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=25),
    period=st.integers(1, 12),
    surprise=st.integers(2, 17),
    most=st.integers(1, 12),
    step_tokens=st.sampled_from([1, 5, 64]),
    seed=st.one_of(st.none(), st.integers(0, 3)),
)
def test_the_output_is_unchanged(
    prompt: list[int],
    period: int,
    surprise: int,
    most: int,
    step_tokens: int,
    seed: int | None,
    hash_engine: Any,
    fifo_policy: Any,
    tokenizer: Any,
) -> None:
    """Greedy or seeded, with drafts right, wrong or half right, the tokens are those of a run without drafts."""
    draw = {"temperature": 0.0 if seed is None else 1.0, "seed": seed}
    answers = []
    for lookup in (0, most):
        engine = hash_engine(context_length=80)
        Parrot(engine, period, surprise)
        request = Request(
            id="r", model="m", tokens=prompt, max_new_tokens=40, arrival=0.0, sampling=SamplingParams(prompt_lookup=lookup, **draw)
        )
        answers.append(run(engine, request, fifo_policy, tokenizer, step_tokens=step_tokens))
    assert answers[0] == answers[1]


def test_copying_takes_fewer_steps(hash_engine: Any, fifo_policy: Any, tokenizer: Any) -> None:
    """A text that repeats its prompt is generated in less than a third of the steps."""
    steps = []
    for lookup in (0, 8):
        engine = hash_engine(context_length=200)
        Parrot(engine, 20, 1000)
        sampling = SamplingParams(prompt_lookup=lookup, ignore_eos=True)
        request = Request(id="r", model="m", tokens=list(range(20)), max_new_tokens=100, arrival=0.0, sampling=sampling)
        run(engine, request, fifo_policy, tokenizer)
        steps.append(len(engine.steps))
    assert steps[1] < steps[0] / 3


def proven(most: int) -> PromptLookup:
    """One whose drafts have been right, so that it drafts as many as it may."""
    lookup = PromptLookup(most)
    lookup.checked(most, most)
    return lookup


def test_drafts_follow_the_last_match() -> None:
    """The continuation of the most recent occurrence of the longest ending, going round where it reaches the end."""
    assert proven(5).draft([1, 2, 3, 9, 8, 7, 6, 5, 1, 2, 3], 5) == (9, 8, 7, 6, 5)
    assert proven(7).draft([4, 5, 4, 5, 4, 5], 7) == (4, 5, 4, 5, 4, 5, 4)
    assert PromptLookup(5).draft([1, 2, 3, 4], 5) == ()
    assert PromptLookup(5).draft([1, 2, 9, 1, 2, 8, 1, 2], 2) == (8, 1)
    assert PromptLookup(5).draft([1], 5) == ()


def test_wrong_drafts_become_shorter_and_rarer() -> None:
    """After a few wrong drafts fewer tokens are guessed, then none for longer and longer; right ones bring the length back."""
    lookup = proven(8)
    text = [1, 2, 3] * 10
    lengths = []
    for _ in range(4):
        lengths.append(len(lookup.draft(text, 8)))
        lookup.checked(lengths[-1], 0)
    assert lengths == [8, 4, 2, 1]
    pauses = []
    for _ in range(5):
        steps = 0
        while not (draft := lookup.draft(text, 8)):
            steps += 1
        pauses.append(steps)
        assert len(draft) == 1
        lookup.checked(1, 0)
    assert pauses == [8, 16, 32, 64, 64]
    while not (draft := lookup.draft(text, 8)):
        pass
    for _ in range(4):
        lookup.checked(len(draft), len(draft))
        draft = lookup.draft(text, 8)
    assert len(draft) == 8


@pytest.mark.parametrize(("exact", "faster"), [(True, True), (False, False)])
def test_who_copies_is_guessed_for_where_the_engine_keeps_the_text(
    hash_engine: Any, make_loop: Any, request_of: Any, exact: bool, faster: bool
) -> None:
    """``copying`` drafts on an engine whose features say ``drafts``, and does nothing on others."""
    steps = []
    for copying in (False, True):
        engine = hash_engine(context_length=200, features=frozenset({"fork", "batch", "kv_cache"} | ({"drafts"} if exact else set())))
        Parrot(engine, 20, 1000)
        make_loop(engine).submit(request_of(list(range(20)), 100, copying=copying, ignore_eos=True)).result()
        steps.append(len(engine.steps))
    assert (steps[1] < steps[0] / 3) == faster


def test_what_was_generated_is_computed_anew_as_generated_text(hash_engine: Any, fifo_policy: Any, tokenizer: Any) -> None:
    """After a preemption the prompt is computed in rows of its own, and what was generated in rows that say so; no prompt ends in a row of
    one token."""
    engine = hash_engine(context_length=64)
    scheduler = Scheduler(fifo_policy(), KVSlots(engine, KVLedger(200), keep_prefixes=False), clock=lambda: 0.0, step_tokens=8)
    runner = Runner(engine, scheduler, clock=lambda: 0.0)
    ticket: Ticket[Generation] = Ticket("r", lambda: None)
    request = Request(id="r", model="m", tokens=list(range(9)), max_new_tokens=12, arrival=0.0, sampling=SamplingParams(ignore_eos=True))
    sequence = runner.add(request, GenerationWork(request, tokenizer, ticket))
    assert sequence is not None
    while sequence.generated < 7:
        runner.step()
    first = [row for step in engine.steps for row in step]
    scheduler.preempt(sequence)
    engine.steps.clear()
    while sequence.computed < 16:
        runner.step()
    again = [row for step in engine.steps for row in step]
    for rows in (first, again):
        assert {token for row in rows if not row.generated for token in range(row.position, row.position + len(row.tokens))} == set(
            range(9)
        )
        assert all(len(row.tokens) > 1 for row in rows if not row.generated)
    assert [(row.position, len(row.tokens)) for row in again if row.generated] == [(9, 7)]
    while runner.step():
        pass
    assert len(ticket.result().tokens) == 12


def test_steps_without_room_for_a_draft_are_no_part_of_a_pause(make_runner: Any, hash_engine: Any, fifo: Any, request_of: Any) -> None:
    """Eight steps that could have had one pass after a single wrong token; the last token of an answer needs no draft either."""
    stepped = make_runner(hash_engine(context_length=200), fifo)
    sequence, _ = stepped.add(request_of([1, 2, 3] * 8, 20, prompt_lookup=1, ignore_eos=True))
    stepped.step()
    sequence.replace([*sequence.tokens[:-1], 1, 2, 3])
    assert sequence.drafter(sequence, 4) == (1,)
    sequence.work.drafted(1, 0)
    for _ in range(20):
        assert sequence.drafter(sequence, 0) == ()
    assert [sequence.drafter(sequence, 4) for _ in range(9)] == [()] * 8 + [(1,)]
    sequence.generated = 18
    assert sequence.drafter(sequence, 4) == (1,)
    sequence.generated = 19
    assert sequence.drafter(sequence, 4) == ()

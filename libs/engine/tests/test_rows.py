"""What each row says to the engine, field by field: prompt chunks, decode rows, drafts, and what is computed again."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_hookspecs import Row


@pytest.fixture
def rows_of(make_runner: Any, hash_engine: Any, fifo: Any) -> Any:
    """A runner whose steps take six tokens, and a function that gives the rows of its next step."""
    stepped = make_runner(hash_engine(), fifo, step_tokens=6, keep_prefixes=False)

    def rows() -> list[Row]:
        before = len(stepped.engine.steps)
        stepped.step()
        return [row for step in stepped.engine.steps[before:] for row in step]

    return stepped, rows


def test_a_row_says_where_it_stands_and_what_is_known(rows_of: Any, request_of: Any) -> None:
    """Two chunks of a prompt of ten tokens, of which the first wants no logits; then the tokens that were generated, each of a sequence
    that is a token longer."""
    stepped, rows = rows_of
    prompt = tuple(range(20, 30))
    sequence, _ = stepped.add(attrs.evolve(request_of(prompt, 9, ignore_eos=True), adapter="terse"))
    (first,) = rows()
    slot = sequence.slot
    assert first == Row(slot, prompt[:6], 0, "none", known=10, adapter="terse")
    assert rows() == [Row(slot, prompt[6:], 6, "last", known=10, adapter="terse")]
    for length in (11, 12):
        given = (sequence.tokens[-1],)
        assert rows() == [Row(slot, given, length - 1, "last", generated=True, known=length, adapter="terse")]


def test_a_row_with_drafts_wants_the_logits_of_all(rows_of: Any, request_of: Any) -> None:
    """And is as long as they are; without any it is a row like the others."""
    stepped, rows = rows_of
    sequence, _ = stepped.add(attrs.evolve(request_of([1, 2, 3], 20, ignore_eos=True), adapter="terse"))
    rows()
    drafts: list[tuple[int, ...]] = [(95, 94), ()]
    sequence.drafter = lambda *_: drafts.pop(0)
    last = sequence.tokens[-1]
    assert rows() == [Row(sequence.slot, (last, 95, 94), 3, "all", generated=True, known=4, adapter="terse")]
    assert sequence.draft == ()
    length, last = len(sequence.tokens), sequence.tokens[-1]
    assert rows() == [Row(sequence.slot, (last,), length - 1, "last", generated=True, known=length, adapter="terse")]


def test_nothing_is_drafted_unless_it_was_asked_for(rows_of: Any, request_of: Any) -> None:
    """However often a text repeats itself."""
    stepped, rows = rows_of
    engine = stepped.engine
    engine.logits = lambda tokens: np.eye(97, dtype=np.float32)[5 + len(tokens) % 2]
    _, ticket = stepped.add(request_of([5, 6] * 3, 9, ignore_eos=True))
    while not ticket.done:
        assert [len(row.tokens) for row in rows()] in ([6], [1])
    assert ticket.result().tokens == (5, 6, 5, 6, 5, 6, 5, 6, 5)


def test_drafts_that_are_right_are_kept_and_the_rest_is_taken_back(rows_of: Any, request_of: Any, expected: Any) -> None:
    """Two of three are what the model says itself; with the token that it says after them one step gives three."""
    stepped, rows = rows_of
    sequence, _ = stepped.add(request_of([1, 2, 3], 20, ignore_eos=True))
    rows()
    said = expected(stepped.engine, [1, 2, 3], 4)
    drafts = [(said[1], said[2], (said[3] + 1) % 95), ()]
    sequence.drafter = lambda *_: drafts.pop(0)
    rows()
    assert sequence.tokens == [1, 2, 3, *said]
    assert (sequence.computed, len(stepped.engine.slots[sequence.slot]), stepped.cache.ledger.held(sequence.slot)) == (6, 6, 6)
    assert rows()[0].tokens == (said[3],)


def test_what_is_computed_again_is_a_prompt_and_then_an_answer(rows_of: Any, request_of: Any) -> None:
    """After a preemption the tokens that were generated have a row of their own, whose last token alone wants logits."""
    stepped, rows = rows_of
    sequence, _ = stepped.add(request_of([1, 2, 3, 4], 9, ignore_eos=True))
    for _ in range(3):
        rows()
    stepped.scheduler.preempt(sequence)
    tokens = sequence.tokens[:]
    (first,) = rows()
    assert first == Row(sequence.slot, (1, 2, 3, 4), 0, "none", known=7)
    assert rows() == [Row(sequence.slot, tuple(tokens[4:7]), 4, "last", generated=True, known=7)]


def test_a_draft_is_cut_to_the_room_that_there_is(rows_of: Any, request_of: Any) -> None:
    """Of four draft tokens one fits beside the token that was sampled."""
    stepped, rows = rows_of
    sequence, _ = stepped.add(request_of([1, 2, 3], 20, ignore_eos=True))
    rows()
    stepped.cache.ledger.capacity = stepped.cache.ledger.used + 2
    sequence.drafter = lambda *_: (95, 94, 93, 92)
    last = sequence.tokens[-1]
    assert rows() == [Row(sequence.slot, (last, 95), 3, "all", generated=True, known=4)]


def test_a_prompt_takes_the_room_that_there_is(rows_of: Any, request_of: Any) -> None:
    """Its row then wants no logits, as the last token of the prompt is not in it."""
    stepped, rows = rows_of
    sequence, _ = stepped.add(request_of([1, 2, 3, 4, 5], 2, ignore_eos=True))
    stepped.scheduler.plan()
    stepped.cache.ledger.release(sequence.slot)
    stepped.cache.ledger.capacity = 3
    assert rows() == [Row(sequence.slot, (1, 2, 3), 0, "none", known=5)]

"""Slots, the KV ledger and the prefix cache together: what is shared, what is evicted for it, and what is recomputed instead."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.sequence import Sequence

TEXT = list(range(60))


class Work:
    def begin(self, sequence: Any) -> None: ...


class Slots:
    """The slots of an engine, with sequences that are computed by hand."""

    def __init__(self, engine: Any, request_of: Any, ledger: Any = 200, **options: Any) -> None:
        self.engine = engine
        self.slots = KVSlots(engine, ledger, **options)
        self.request_of = request_of
        self.running: list[Sequence] = []

    def start(self, tokens: list[int], **fields: Any) -> Sequence | None:
        """Start a sequence; None where no slot is free."""
        sequence = Sequence(self.request_of(tokens, 4, **fields), Work(), lambda: 0.0)
        if not self.slots.start(sequence, self.running):
            return None
        self.running.append(sequence)
        return sequence

    def compute(self, sequence: Sequence) -> None:
        """Compute what it lacks, in the engine and in the ledger."""
        tokens = sequence.tokens[sequence.computed :]
        assert self.slots.reserve(sequence.slot, len(tokens)) == len(tokens)
        self.slots.ledger.commit(sequence.slot)
        self.engine.slots[sequence.slot].extend(tokens)
        sequence.computed = len(sequence.tokens)

    def run(self, tokens: list[int], **fields: Any) -> Sequence:
        """Start a sequence and compute it."""
        sequence = self.start(tokens, **fields)
        assert sequence is not None
        self.compute(sequence)
        return sequence

    def end(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.slots.leave(sequence)

    def cache(self, tokens: list[int], **fields: Any) -> None:
        """Leave ``tokens`` in the prefix cache."""
        self.end(self.run(tokens, **fields))


@pytest.fixture
def make(hash_engine: Any, request_of: Any) -> Any:
    def slots(ledger: Any = 200, *, features: Any = ("fork", "kv_cache"), max_sequences: int = 8, **options: Any) -> Slots:
        engine = hash_engine(context_length=100, max_sequences=max_sequences, features=frozenset(features))
        return Slots(engine, request_of, ledger, **options)

    return slots


def test_cached_prefixes_count_as_room(make: Any) -> None:
    """Of 100 tokens 30 are used and 40 cached: room is 70 tokens, and not one more."""
    slots = make(100)
    slots.cache(TEXT[:40])
    slots.run([90] * 30)
    assert [slots.slots.has_room(tokens) for tokens in (29, 30, 31, 69, 70, 71)] == [True] * 5 + [False]


@pytest.mark.parametrize(("length", "shared"), [(7, 0), (8, 8), (9, 9)])
def test_a_prefix_of_eight_tokens_is_the_shortest_that_is_shared(make: Any, length: int, shared: int) -> None:
    """Of a running sequence and of one in the cache alike; seven tokens are sooner recomputed than forked."""
    running = make()
    running.run([*TEXT[:length], 90, 91])
    assert running.start([*TEXT[:length], 70, 71, 72]).cached == shared
    slots = make()
    slots.cache(TEXT[:length])
    assert len(slots.slots.prefixes) == (shared > 0)


def test_a_cached_prefix_is_forked_from_eight_shared_tokens_and_else_taken_over(make: Any) -> None:
    """Eight tokens are worth a fork, after which the longer prefix is still there for others; for seven its slot is taken."""
    for length, left in ((8, 1), (7, 0)):
        slots = make()
        slots.cache([*TEXT[:length], 90, 91, 92])
        assert slots.start([*TEXT[:length], 70, 71, 72]).cached == length
        assert len(slots.slots.prefixes) == left


def test_hits_add_up(make: Any) -> None:
    slots = make()
    slots.cache(TEXT[:20])
    slots.run([*TEXT[:20], 90, 91])
    slots.run([*TEXT[:20], 80, 81])
    assert slots.slots.hits == 40


def test_an_equal_match_comes_from_the_cache(make: Any) -> None:
    """A cached prefix that the prompt continues is taken over, which costs no slot; a fork of the running sequence would."""
    slots = make()
    slots.run([*TEXT[:20], 90, 91])
    slots.cache(TEXT[:20])
    found = slots.start([*TEXT[:20], 70, 71])
    assert (found.cached, len(slots.slots.prefixes), len(slots.engine.slots)) == (20, 0, 2)


def test_at_most_32_running_sequences_are_compared(make: Any) -> None:
    """The one with the prefix is found at the 32nd place, and not at the 33rd: a step's time does not grow with what runs."""
    for place, found in ((31, 20), (32, 0)):
        slots = make(2000, max_sequences=40)
        for n in range(33):
            slots.run([*TEXT[:20], 90, 91] if n == place else [TEXT[0], 60 + n % 30])
        assert slots.start([*TEXT[:20], 70, 71]).cached == found


def test_no_slot_is_false_and_leaves_the_sequence_waiting(make: Any) -> None:
    slots = make(max_sequences=1)
    slots.run([1, 2, 3])
    assert slots.start([4, 5, 6]) is None


def test_without_fork_or_cache_nothing_is_shared(make: Any) -> None:
    """An engine that cannot fork lends no running prefix; with ``keep_prefixes=False`` neither is one lent nor kept; by default both."""
    slots = make(features=("kv_cache",))
    slots.run([*TEXT[:20], 90])
    assert slots.start([*TEXT[:20], 70, 71]).cached == 0
    slots = make(keep_prefixes=False)
    first = slots.run([*TEXT[:20], 90])
    assert slots.run([*TEXT[:20], 70, 71]).cached == 0
    slots.end(first)
    assert len(slots.slots.prefixes) == 0


def test_leaving_drops_the_reservation(make: Any) -> None:
    """A sequence that leaves in mid-step gives back what it reserved."""
    slots = make()
    sequence = slots.run(TEXT[:20])
    assert slots.slots.reserve(sequence.slot, 5) == 5
    slots.end(sequence)
    assert (slots.slots.ledger.used, slots.slots.prefixes.tokens) == (20, 20)


def test_other_prefixes_are_evicted_for_a_fork_and_never_its_source(make: Any) -> None:
    """A fork copies its whole source first: the other cached prefix goes; where that is not enough, the source's own slot is taken over."""
    slots = make(100)
    slots.cache([80] * 30)
    slots.cache([*TEXT[:40], 90, 91])
    found = slots.start([*TEXT[:40], 70, 71, 72])
    assert (found.cached, [each.tokens for each in slots.slots.prefixes._entries.values()]) == (40, [[*TEXT[:40], 90, 91]])
    tight = make(60)
    tight.cache([*TEXT[:40], 90, 91])
    found = tight.start([*TEXT[:40], 70, 71, 72])
    assert (found.cached, len(tight.slots.prefixes), tight.slots.ledger.used) == (40, 0, 40)


def test_an_engine_that_fails_to_fork_is_not_asked_again(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so once, by the engine's name and its error, and the prompt is recomputed."""
    slots = make()
    asked: list[int] = []

    def broken(slot: int) -> int:
        asked.append(slot)
        raise ZeroDivisionError("oh dear")

    slots.engine.fork = broken
    slots.run([*TEXT[:20], 90])
    with caplog.at_level(logging.WARNING):
        assert [slots.run([*TEXT[:20], 70, n]).cached for n in range(3)] == [0, 0, 0]
    assert len(asked) == 1
    (message,) = caplog.messages
    assert message.startswith(f"{slots.engine} could not fork a slot (")
    assert "oh dear" in message
    assert message.endswith("); it is not asked again, and prefixes are recomputed.")


class Robbed(KVLedger):
    """A ledger that another model takes the memory of, between the question and the reservation."""

    robbed = False

    def reserve(self, slot: int, tokens: int) -> bool:
        return not self.robbed and super().reserve(slot, tokens)


def test_memory_that_another_model_takes_meanwhile_is_not_there(make: Any) -> None:
    """Nothing is reserved, a fork is closed again, and no slot is left behind."""
    ledger = Robbed(200)
    slots = make(ledger)
    sequence = slots.run([*TEXT[:20], 90])
    ledger.robbed = True
    assert slots.slots.reserve(sequence.slot, 5) == 0
    assert slots.start([*TEXT[:20], 70, 71]).cached == 0
    assert (len(slots.engine.slots), ledger.slots) == (2, 2)


def test_a_new_engine_serves_what_starts_next(make: Any, hash_engine: Any) -> None:
    """Its slots are its own: nothing cached on the lost engine is found."""
    slots = make()
    slots.cache(TEXT[:20])
    slots.engine = hash_engine(context_length=100)
    slots.slots.replace_engine(slots.engine)
    assert slots.run([*TEXT[:20], 90]).cached == 0
    assert len(slots.engine.slots) == 1

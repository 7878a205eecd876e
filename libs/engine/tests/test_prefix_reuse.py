"""Finished sequences' KV, found again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmasos_engine.prefix_cache import PrefixCache, common_prefix

SECONDS = 120.0


@given(st.lists(st.integers(0, 1), max_size=30), st.lists(st.integers(0, 1), max_size=30), st.integers(0, 35))
def test_common_prefix_counts_equal_leading_tokens(a: list[int], b: list[int], limit: int) -> None:
    """As many as a plain loop finds."""
    expected = 0
    while expected < min(len(a), len(b), limit) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b, limit) == expected


def test_the_longest_match_of_the_tenant_wins() -> None:
    """Other tenants' entries do not exist for it, however well they match."""
    cache = PrefixCache()
    cache.add(1, "a", [1, 2, 3, 4])
    cache.add(2, "a", [1, 2, 3, 4, 5, 6])
    cache.add(3, "b", [1, 2, 3, 4, 5, 6, 7, 8])
    match = cache.match("a", [1, 2, 3, 4, 5, 9], 6)
    assert match is not None
    assert (match[0].slot, match[1]) == (2, 5)
    assert cache.match("c", [1, 2, 3], 3) is None
    assert cache.match("a", [9], 1) is None
    assert cache.tokens == 18


def test_long_prefixes_stay_longer_but_none_for_ever() -> None:
    """The short one goes first; the long one that nobody used goes when newer ones have aged it."""
    cache = PrefixCache()
    cache.add(0, "a", [0] * 50)
    gone = []
    for slot in range(1, 40):
        cache.add(slot, "a", [slot] * 10)
        if len(cache) > 3:
            gone.append(cache.evict())
    assert gone[0] == 1
    assert 0 in gone
    assert gone.index(0) >= 3


def run(loop: Any, request: Any) -> Any:
    return loop.submit(request).result(SECONDS)


def computed(engine: Any) -> int:
    return sum(len(row.tokens) for rows in engine.steps for row in rows)


def test_a_conversation_computes_each_turn_once(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """Each turn's prompt is the last turn and a little more: only that is computed, and the answers are unchanged."""
    engine = hash_engine(context_length=400)
    loop = make_loop(engine)
    history = list(range(30))
    for turn in range(4):
        before = computed(engine)
        answer = run(loop, request_of(history, 6, ignore_eos=True))
        assert list(answer.tokens) == [*expected_without_end(engine, history, 6)]
        if turn:
            assert answer.cached_tokens >= len(history) - 5
            assert computed(engine) - before <= 5 + 6
        history += [*answer.tokens, 50 + turn, 60]
    assert loop.usage().cached_prefixes == 1, "A turn that goes on takes its slot over; nothing is kept twice."


def expected_without_end(engine: Any, prompt: list[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(int(engine.logits(tokens).argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("features", [{"fork", "kv_cache"}, {"kv_cache"}], ids=["fork", "no fork"])
def test_a_shared_beginning_is_computed_once_for_a_tenant(make_loop: Any, hash_engine: Any, request_of: Any, features: set[str]) -> None:
    """Prompts with one system prompt: the second and third find it; another tenant does not, even with the very same prompt."""
    engine = hash_engine(context_length=400, features=frozenset(features))
    loop = make_loop(engine)
    system = list(range(60))
    asked = [("a", [1, 2, 3]), ("a", [4, 5, 6]), ("a", [7, 8]), ("b", [1, 2, 3])]
    found = [run(loop, request_of([*system, *tail], 3, tenant=tenant)).cached_tokens for tenant, tail in asked]
    assert found == [0, 60, 60, 0]


def test_running_sequences_lend_their_prefix_within_a_tenant(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """What runs now is forked as well, but not for another tenant."""
    begun, go_on = threading.Event(), threading.Event()

    def gate(rows: Any) -> None:
        if any(row.position >= 40 for row in rows):
            begun.set()
            assert go_on.wait(SECONDS)

    engine = hash_engine(context_length=400, fault=gate)
    loop = make_loop(engine)
    prompt = list(range(40))
    first = loop.submit(request_of(prompt, 30, ignore_eos=True))
    assert begun.wait(SECONDS)
    others = [loop.submit(request_of([*prompt, 7, 8], 3, tenant=tenant)) for tenant in ("default", "stranger")]
    go_on.set()
    assert [ticket.result(SECONDS).cached_tokens for ticket in others] == [40, 0]
    assert len(first.result(SECONDS).tokens) == 30


def test_cached_prefixes_are_evicted_for_requests(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """In a KV cache of 100 tokens kept prefixes are forgotten as far as running sequences need the room, and never over budget."""
    engine = hash_engine(context_length=90, max_sequences=3)
    loop = make_loop(engine, memory=1000 + 10 * 100)
    for i in range(12):
        prompt = [i] * 30
        assert list(run(loop, request_of(prompt, 10)).tokens) == expected(engine, prompt, 10)
        assert engine.peak <= 100
        assert loop.usage().kv_cached <= 100
    long = [5, 6] * 40
    assert list(run(loop, request_of(long, 8)).tokens) == expected(engine, long, 8)
    assert engine.peak <= 100


def test_nothing_is_kept_when_asked_not_to(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Every slot is empty after its request."""
    engine = hash_engine()
    loop = make_loop(engine, keep_prefixes=False)
    assert run(loop, request_of(list(range(20)), 3)).cached_tokens == 0
    assert run(loop, request_of(list(range(20)), 3)).cached_tokens == 0
    assert engine.slots == {}

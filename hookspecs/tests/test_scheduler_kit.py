"""``SchedulerConformance`` passes right policies and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = """
import random
import attrs
from llmasos_hookspecs import Admit, Component, Reject, hookimpl

@attrs.frozen
class Options:
    max_sequences: int = 8

class Fifo:
    def admit(self, request, stats): return Admit()
    def rank(self, sequence, now): return (sequence.request.arrival, sequence.request.id)
    def victim(self, running, needy, now): return None
    def quantum(self, sequence, budget): return budget
    def on_commit(self, charges): pass

class Policy(Fifo):
    pass
{body}

{shared}

@hookimpl
def llmasos_component(): return Component(summary="A policy.", options=Options)

@hookimpl
def llmasos_create_scheduler(options, context): return {made}
"""


def policy(body: str = "", made: str = "Policy()", shared: str = "") -> str:
    """First come, first served, but for ``body``."""
    return PLUGIN.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "), made=made, shared=shared)


FAIR = policy("""
    # Least service first, with a lift for those that wait; preempts only for a sequence that is far behind.
    def __init__(self): self.used, self.tenants = {}, {}
    def admit(self, request, stats):
        if stats.waiting >= 200:
            return Reject("the queue is full", retry_after=5.0)
        self.used[request.id] = 0.0
        return Admit()
    def rank(self, sequence, now):
        return (self.used.get(sequence.request.id, 0.0) / 8 + sequence.request.arrival - now, sequence.request.id)
    def victim(self, running, needy, now):
        worst = max(running, key=lambda s: self.rank(s, now))
        return worst.request.id if self.rank(worst, now)[0] > self.rank(needy, now)[0] + 50 else None
    def quantum(self, sequence, budget): return max(1, budget // 2)
    def on_commit(self, charges):
        for c in charges:
            if c.finished:
                self.used.pop(c.id, None)
            elif c.id in self.used:
                self.used[c.id] += (c.prefill_tokens + c.decode_tokens) / max(c.weight, 1e-3)
""")


@attrs.frozen
class Wrong:
    """A defective plugin, and the standard tests that must fail for it."""

    source: str
    caught_by: tuple[str, ...]


SERVES = "test_serves_every_request_once"
STARVES = "test_starves_nobody"
WRONG = {
    "refuses long prompts for good": Wrong(
        policy("""
            def admit(self, request, stats):
                return Admit() if len(request.tokens) < 100 else Reject("too long")
        """),
        (SERVES,),
    ),
    "drops every fifth request": Wrong(
        policy("""
            def admit(self, request, stats):
                return None if request.id.endswith("5") else Admit()
        """),
        (SERVES,),
    ),
    "refuses without a reason": Wrong(policy('def admit(self, request, stats): return Reject("")'), (SERVES, "test_an_idle_queue_admits")),
    "refuses everybody, for ever": Wrong(
        policy('def admit(self, request, stats): return Reject("busy", retry_after=1.0)'), (SERVES, "test_an_idle_queue_admits")
    ),
    "serves the newest first": Wrong(policy("def rank(self, sequence, now): return -sequence.request.arrival"), (STARVES,)),
    "serves the shortest first": Wrong(
        policy("def rank(self, sequence, now): return (sequence.remaining, sequence.request.id)"), (STARVES,)
    ),
    "serves the longest first": Wrong(
        policy("def rank(self, sequence, now): return (-sequence.remaining, sequence.request.id)"), (STARVES,)
    ),
    "serves the most urgent first without ageing": Wrong(
        policy("def rank(self, sequence, now): return (-sequence.request.priority, sequence.request.arrival)"), (STARVES,)
    ),
    "serves deadlines first": Wrong(
        policy('def rank(self, sequence, now): return (sequence.request.deadline or float("inf"), sequence.request.arrival)'), (STARVES,)
    ),
    "starves one tenant": Wrong(
        policy("""def rank(self, sequence, now): return (sequence.request.tenant == "quiet", sequence.request.arrival)"""), (STARVES,)
    ),
    "preempts for whoever comes": Wrong(
        policy("def victim(self, running, needy, now): return running[0].request.id"), (SERVES, "test_serves_under_memory_pressure")
    ),
    "preempts without hysteresis": Wrong(
        policy("""
            def rank(self, sequence, now): return (sequence.generated + sequence.computed, sequence.request.id)
            def victim(self, running, needy, now):
                worst = max(running, key=lambda s: self.rank(s, now))
                return worst.request.id if self.rank(worst, now) > self.rank(needy, now) else None
        """),
        (SERVES,),
    ),
    "names a victim that does not run": Wrong(
        policy("def victim(self, running, needy, now): return needy.request.id"), (SERVES, "test_respects_cancellation")
    ),
    "names a victim that was cancelled": Wrong(
        policy("""
            def __init__(self): self.seen = []
            def rank(self, sequence, now):
                if sequence.state == "running" and sequence.request.id not in self.seen: self.seen.append(sequence.request.id)
                return super().rank(sequence, now)
            def victim(self, running, needy, now):
                gone = [s for s in self.seen if s not in {r.request.id for r in running}]
                return gone[-1] if gone else None
        """),
        ("test_respects_cancellation",),
    ),
    "fails on a request that vanished": Wrong(
        policy("""
            def __init__(self): self.used = {}
            def admit(self, request, stats): self.used[request.id] = 0; return Admit()
            def rank(self, sequence, now): return (self.used[sequence.request.id], sequence.request.id)
            def on_commit(self, charges):
                for c in charges:
                    if c.finished and not c.prefill_tokens + c.decode_tokens: self.used.clear()
                    elif c.finished: del self.used[c.id]
        """),
        ("test_respects_cancellation",),
    ),
    "ranks that cannot be compared": Wrong(
        policy("def rank(self, sequence, now): return sequence.request.deadline or 'never'"), ("test_odd_requests_are_ranked", SERVES)
    ),
    "ranks at random": Wrong(policy("def rank(self, sequence, now): return random.random()"), ("test_odd_requests_are_ranked", SERVES)),
    "divides by a weight rounded down": Wrong(
        policy("def rank(self, sequence, now): return sequence.request.arrival / int(sequence.request.weight)"),
        ("test_odd_requests_are_ranked",),
    ),
    "draws from the global generator": Wrong(
        policy("""
            def __init__(self): self.salt = random.getrandbits(64)
            def rank(self, sequence, now): return (hash((self.salt, sequence.request.id)), sequence.request.id)
        """),
        ("test_same_work_same_order",),
    ),
    "a quantum in fractions": Wrong(policy("def quantum(self, sequence, budget): return budget / 2"), ("test_quantum_is_a_number", SERVES)),
    "no quantum at all": Wrong(policy("def quantum(self, sequence, budget): return None"), ("test_quantum_is_a_number",)),
    "remembers every request": Wrong(
        policy("""
            def __init__(self): self.used = {}
            def on_commit(self, charges):
                for c in charges: self.used[c.id] = self.used.get(c.id, 0) + 1
        """),
        ("test_forgets_what_is_over",),
    ),
    "remembers every tenant": Wrong(
        policy("""
            def __init__(self): self.used = {}
            def on_commit(self, charges):
                for c in charges: self.used.setdefault(c.tenant, []).append(c.decode_tokens)
        """),
        ("test_forgets_what_is_over",),
    ),
    "rewrites the prompt of whom it ranks": Wrong(
        policy("""
            def rank(self, sequence, now):
                sequence.tokens[-1] = 0
                return (sequence.request.arrival, sequence.request.id)
        """),
        ("test_changes_nothing_it_is_shown",),
    ),
    "sets back what is computed": Wrong(
        policy("""
            def quantum(self, sequence, budget):
                sequence.computed = 0
                return budget
        """),
        ("test_changes_nothing_it_is_shown",),
    ),
    "keeps its books on the request": Wrong(
        policy("def admit(self, request, stats): request.seen = True; return Admit()"), ("test_changes_nothing_it_is_shown",)
    ),
    "knows only whom it has let in": Wrong(
        policy("""
            def __init__(self): self.seen = {}
            def admit(self, request, stats):
                if len(self.seen) >= 8: return Reject("busy", retry_after=1.0)
                self.seen[request.id] = request.arrival
                return Admit()
            def rank(self, sequence, now): return (self.seen[sequence.request.id], sequence.request.id)
            def on_commit(self, charges):
                for c in charges:
                    if c.finished: self.seen.pop(c.id, None)
        """),
        ("test_takes_over_a_queue",),
    ),
    "shares one policy between queues": Wrong(policy(made="POLICY", shared="POLICY = Policy()"), ("test_policy_is_whole",)),
    "lacks a method": Wrong(policy(made="object()"), ("test_policy_is_whole",)),
    "allows no sequence": Wrong(policy().replace("int = 8", "int = 0"), ("test_shared_options_are_sound",)),
    "fails on an empty step": Wrong(
        policy("def on_commit(self, charges): self.last = charges[0].id"), ("test_charges_of_strangers_do_no_harm",)
    ),
}


@pytest.mark.parametrize("source", [pytest.param(policy(), id="fifo", marks=pytest.mark.long), pytest.param(FAIR, id="fair")])
def test_a_right_policy_passes(run_conformance: Callable[..., Any], source: str) -> None:
    """First come first served, and a fair policy that preempts and sheds load, pass every standard test."""
    outcomes = run_conformance("SchedulerConformance", source)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong.caught_by))
def test_a_wrong_policy_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A policy with one defect fails the tests that are meant to find it."""
    wrong = WRONG[defect]
    outcomes = run_conformance("SchedulerConformance", wrong.source, only=wrong.caught_by)
    assert not outcomes.collection_errors
    assert set(wrong.caught_by) <= outcomes.failed, f"passed {sorted(outcomes.passed)}"

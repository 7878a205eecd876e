"""What a policy can reach: views that it cannot change, of requests that it cannot change."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from llmasos_engine.sequence import Sequence
from llmasos_engine.views import View, frozen
from llmasos_hookspecs import Admit, Constraint, EngineFailed, Reject, Request

SECONDS = 120.0  # after which a test that hangs is given up

#: What a policy may try to do to what it is given.
DEEDS: dict[str, Callable[[Any], Any]] = {
    "tokens": lambda view: view.request.tokens.__setitem__(-1, 0),
    "more tokens": lambda view: view.request.tokens.append(0),
    "computed": lambda view: setattr(view, "computed", 0),
    "state": lambda view: setattr(view, "state", "finished"),
    "a new field": lambda view: setattr(view, "slot", 0),
    "request": lambda view: setattr(view, "request", None),
    "a request's field": lambda view: setattr(view.request, "max_new_tokens", 1),
    "sampling": lambda view: setattr(view.request.sampling, "temperature", 9.0),
    "bias": lambda view: view.request.sampling.logit_bias.__setitem__(5, 100.0),
}


class Meddler:
    """First come, first served, and one deed in every method."""

    def __init__(self, deed: Callable[[Any], Any]) -> None:
        self.deed = deed
        self.failed = 0
        self.seen: list[Any] = []

    def meddle(self, view: Any) -> None:
        self.seen.append(view)
        try:
            self.deed(view)
        except (AttributeError, TypeError):
            self.failed += 1

    def admit(self, request: Any, stats: Any) -> Any:
        self.meddle(attrs.make_class("View", {"request": attrs.field()}, frozen=True)(request))
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        self.meddle(sequence)
        return (sequence.request.arrival, sequence.request.id)

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        assert isinstance(running, tuple)
        for sequence in (*running, needy):
            self.meddle(sequence)
        return None

    def quantum(self, sequence: Any, budget: int) -> int:
        self.meddle(sequence)
        return budget

    def on_commit(self, charges: Any) -> None:
        assert isinstance(charges, tuple)


@pytest.mark.parametrize("deed", DEEDS)
def test_no_deed_of_a_policy_changes_an_answer(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any, deed: str) -> None:
    """Each attempt fails in the policy itself, and every text is that of a loop without it."""
    engine, policy = hash_engine(max_sequences=2), Meddler(DEEDS[deed])
    loop = make_loop(engine, policy, max_sequences=2, step_tokens=8)
    tickets = [loop.submit(request_of([n, 2, 3, 4], 6, logit_bias={n: 0.0})) for n in range(8)]
    for n, ticket in enumerate(tickets):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [n, 2, 3, 4], 6)
    assert policy.failed == len(policy.seen) > 8


def test_a_view_leads_back_to_nothing_of_cores(request_of: Any) -> None:
    """Neither the sequence nor its work can be reached from a view by any attribute."""

    class Work:
        def begin(self, sequence: Any) -> None: ...

    sequence = Sequence(request_of([1, 2, 3], 4), Work(), lambda: 0.0)
    seen: set[int] = set()
    found: list[Any] = [sequence.view()]
    while found:
        each = found.pop()
        if id(each) not in seen and not isinstance(each, type) and type(each).__name__ != "module":
            seen.add(id(each))
            assert not isinstance(each, Sequence | Work)
            found += gc.get_referents(each)
    view = sequence.view()
    assert (view.state, view.computed, view.remaining, view.generated, view.waited) == ("waiting", 0, 7, 0, 0.0)
    sequence.start(0, 2)
    sequence.append(9)
    assert (view.state, view.computed) == ("waiting", 0)
    for length in (2, 4):
        sequence.computed = length
        now = sequence.view()
        assert now == View(sequence.shown, "running", length, sequence.remaining, 1, sequence.cached, 0, sequence.waited)


def test_a_policy_sees_what_was_asked_for_as_it_was_asked(request_of: Any) -> None:
    """Tokens, bias and constraint, all of them read-only; a request that cannot be changed anyway is no copy."""
    schema = {"type": "object", "required": ["a", "b"], "properties": {"a": {"enum": [1, 2]}}}
    request = request_of([1, 2], constraint=Constraint("json_schema", schema), logit_bias={3: 1.5}, temperature=0.5)
    shown = frozen(request)
    constraint = shown.sampling.constraint
    assert (shown.id, shown.tokens, shown.sampling.temperature, dict(shown.sampling.logit_bias)) == (request.id, (1, 2), 0.5, {3: 1.5})
    assert constraint is not None
    assert constraint.kind == "json_schema"
    assert dict(constraint.value) == {"type": "object", "required": ("a", "b"), "properties": {"a": {"enum": (1, 2)}}}
    for changed in (constraint.value, constraint.value["properties"], shown.sampling.logit_bias):
        with pytest.raises(TypeError):
            changed["a"] = 1
    assert frozen(request_of([1], constraint=Constraint("regex", "a+"))).sampling.constraint == Constraint("regex", "a+")
    assert dict(frozen(request_of([1], logit_bias={3: 1.5})).sampling.logit_bias) == {3: 1.5}
    plain = request_of((1, 2))
    assert frozen(plain) is plain


class Registers:
    """Looks up what it saw in ``admit``, as a policy may that keeps books; ``refuses`` all of them where it is told to."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.arrivals: dict[str, float] = {}
        self.refuses = refuses

    def admit(self, request: Request, stats: Any) -> Any:
        self.arrivals[request.id] = request.arrival
        return Reject("never") if self.refuses else Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return -self.arrivals[sequence.request.id]

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        return None

    def quantum(self, sequence: Any, budget: int) -> int:
        return budget

    def on_commit(self, charges: Any) -> None:
        for charge in charges:
            self.arrivals[charge.id]
            if charge.finished:
                del self.arrivals[charge.id]


@pytest.mark.parametrize("refuses", [False, True])
def test_a_new_policy_is_asked_to_admit_what_is_live(
    make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any, expected: Any, refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It ranks them by its own books; where it would refuse them, they stay, for they were admitted already."""
    gate = make_gate(2)
    engine = hash_engine(max_sequences=1, fault=gate)
    loop = make_loop(engine, max_sequences=1)
    tickets = [loop.submit(request_of([n, 2], 3, ignore_eos=True)) for n in range(5)]
    ended: list[int] = []
    for n, ticket in enumerate(tickets):
        ticket.add_done_callback(lambda n=n: ended.append(n))
    assert gate.reached.wait(SECONDS)
    policy = Registers(refuses=refuses)
    gate.open.set()
    loop.use_policy(policy)
    for ticket in tickets:
        assert len(ticket.result(SECONDS).tokens) == 3
    assert not caplog.text
    assert not policy.arrivals
    rest = [n for n in ended if n not in ended[:2]]
    assert rest == sorted(rest, reverse=True)


def test_an_engine_that_is_lost_again_and_again_ends_the_loop(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """An engine whose slots cannot be opened is rebuilt twice, and then everybody is told."""
    made: list[Any] = []

    def broken() -> Any:
        made.append(hash_engine())
        made[-1].open = lambda: [][0]
        return made[-1]

    lost: list[bool] = []
    loop = make_loop(broken(), rebuild=broken, on_lost=lambda: lost.append(True), engine_label="loader X")
    for n in range(3):
        with pytest.raises(EngineFailed, match=r"failed 3 times before it computed anything: The loader X failed in open: IndexError"):
            loop.submit(request_of([n, 2], 3)).result(SECONDS)
    loop._thread.join(SECONDS)
    assert lost == [True]
    assert len(made) == 3
    assert all(engine.shut_down for engine in made)

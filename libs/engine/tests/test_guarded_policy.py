"""The guard around a policy, call by call: what stands in for an answer that fails, what the log says, and Ctrl-C."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_engine.policy import GuardedPolicy
from llmasos_engine.sequence import Sequence
from llmasos_hookspecs import Admit, Charge, Reject, Request

STATS: Any = object()


def sequence(name: str, arrival: float = 0.0) -> Sequence:
    request = Request(id=name, model="m", tokens=[1, 2], max_new_tokens=3, arrival=arrival)
    return Sequence(request, None, lambda: 0.0)  # type: ignore[arg-type]


class Planted:
    """Answers with what a test plants for each method, and keeps what it was given."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self.given: dict[str, tuple[Any, ...]] = {}
        self._answers = answers

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in self._answers:
            raise AttributeError(method)

        def call(*arguments: Any) -> Any:
            self.given[method] = arguments
            return self._answers[method](*arguments)

        return call


def guarded(**answers: Callable[..., Any]) -> GuardedPolicy:
    return GuardedPolicy(Planted(**answers), "scheduler x of y 1.0")  # type: ignore[arg-type]


#: Method -> how it is called, and core's default.
CALLS: dict[str, tuple[Callable[[GuardedPolicy], Any], Any]] = {
    "admit": (lambda policy: policy.admit(sequence("a").shown, STATS), Admit()),
    "rank": (lambda policy: policy.rank(sequence("a", 7.0), 1.0), (7.0, "a")),
    "victim": (lambda policy: policy.victim([sequence("a"), sequence("b")], sequence("c"), 1.0), None),
    "quantum": (lambda policy: policy.quantum(sequence("a"), 9), 9),
    "on_commit": (lambda policy: policy.on_commit([]), None),
}


@pytest.mark.parametrize("method", CALLS)
def test_the_log_says_once_what_a_method_raised(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """And core's default stands in for the answer each time."""

    def fail(*_: Any) -> Any:
        raise ValueError(f"planted in {method}")

    policy = guarded(**{method: fail})
    call, default = CALLS[method]
    with caplog.at_level(logging.WARNING):
        assert [call(policy), call(policy)] == [default, default]
    assert caplog.messages == [
        f"The scheduling policy Planted (scheduler x of y 1.0) failed in {method} (ValueError: planted in {method}); "
        "core uses its default instead."
    ]
    assert policy.by_arrival == (method == "rank")


@pytest.mark.parametrize("method", CALLS)
def test_ctrl_c_in_a_policy_is_the_users_on_the_main_thread_alone(method: str) -> None:
    """There it interrupts the caller; on another thread the policy raised it, and fails."""

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    call, default = CALLS[method]
    with pytest.raises(KeyboardInterrupt):
        call(guarded(**{method: interrupt}))
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call(guarded(**{method: interrupt}))))
    thread.start()
    thread.join()
    assert answers == [default]


def test_an_answer_of_another_kind_admits_the_request_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    refusal, request = Reject("full"), sequence("a").shown
    policy = guarded(admit=lambda *_: refusal)
    assert policy.admit(request, STATS) is refusal
    assert policy.policy.given["admit"] == (request, STATS)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        assert guarded(admit=lambda *_: 3).admit(sequence("a").shown, STATS) == Admit()
    assert "failed in admit (it returned an int and not Admit or Reject)" in caplog.text


def test_a_victim_that_does_not_run_is_none_and_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    running = [sequence("a"), sequence("b")]
    for chosen, expected in (("b", running[1]), ("z", None), (None, None)):
        policy = guarded(victim=lambda *_, chosen=chosen: chosen)
        assert policy.victim(running, sequence("c"), 4.0) is expected
        shown, needy, now = policy.policy.given["victim"]  # type: ignore[attr-defined]
        assert ([each.request.id for each in shown], needy.request.id, now) == (["a", "b"], "c", 4.0)
    assert not caplog.messages


@pytest.mark.parametrize(("answer", "expected"), [(-3, 1), (0, 1), (1, 1), (2, 2), (9, 9), (10, 9), (4.7, 4)])
def test_a_quantum_is_a_whole_number_from_one_to_the_budget(answer: float, expected: int) -> None:
    policy = guarded(quantum=lambda *_: answer)
    assert policy.quantum(sequence("a"), 9) == expected
    view, budget = policy.policy.given["quantum"]  # type: ignore[attr-defined]
    assert (view.request.id, budget) == ("a", 9)


def test_ranks_that_cannot_be_compared_are_replaced_by_arrival_for_good(caplog: pytest.LogCaptureFixture) -> None:
    ranks = iter([1, "one", 2, 3])
    policy = guarded(rank=lambda *_: next(ranks))
    late, early = sequence("late", 2.0), sequence("early", 1.0)
    with caplog.at_level(logging.WARNING):
        assert policy.order([late, early], 5.0) == [early, late]
    assert "failed in rank (TypeError: " in caplog.text
    assert policy.rank(late, 5.0) == (2.0, "late")
    assert policy.order([late], 5.0) == [late]


def test_charges_are_a_tuple_that_a_policy_cannot_change() -> None:
    charge = Charge(id="a", tenant="t", weight=1.0, prefill_tokens=2, decode_tokens=0, finished=False)
    policy = guarded(on_commit=lambda *_: None)
    policy.on_commit([charge])
    assert policy.policy.given["on_commit"] == ((charge,),)  # type: ignore[attr-defined]


def test_a_policy_without_a_label_is_named_by_its_class() -> None:
    assert repr(GuardedPolicy(Planted())) == "the scheduling policy Planted"  # type: ignore[arg-type]
    assert repr(guarded()) == "the scheduling policy Planted (scheduler x of y 1.0)"

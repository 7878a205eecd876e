"""What callers and the log are told where an engine fails, hangs or is closed; and how often another one is made."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_engine.guard import Guard
from llmasos_engine.guarded_encoder import GuardedEncoder
from llmasos_engine.guarded_engine import GuardedEngine
from llmasos_hookspecs import (
    Cancelled,
    CapacityExceeded,
    Draw,
    EncoderInfo,
    EncoderRow,
    EngineFailed,
    LLMasOSError,
    ModelClosed,
    Row,
    SamplingParams,
)
from llmasos_hookspecs.guarding.watchdog import TICK, Watch

SECONDS = 120.0


def told(ticket: Any) -> LLMasOSError:
    with pytest.raises(LLMasOSError) as caught:
        ticket.result(SECONDS)
    return caught.value


def failing(hash_engine: Any, error: BaseException, after: int = 0) -> Any:
    """An engine that fails in a step, after so many that pass."""
    passed = iter(range(after))

    def fault(rows: Any) -> Any:
        if next(passed, None) is None:
            if isinstance(error, EngineFailed):
                return error
            raise error
        return None

    return hash_engine(fault=fault)


def test_a_lost_engine_without_another_is_told_to_all_and_once_to_the_owner(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """With the plugin and what it raised; the cause is kept for the traceback."""
    lost: list[int] = []
    over = threading.Event()
    engine = failing(hash_engine, SystemExit("planted"))
    loop = make_loop(engine, engine_label="loader X", on_lost=lambda: (lost.append(1), over.set()))
    error = told(loop.submit(request_of([1, 2], 3)))
    assert str(error) == "The engine of tiny failed, and what it was computing is lost: The loader X failed in step: SystemExit: planted."
    assert isinstance(error.__cause__, EngineFailed)
    assert over.wait(SECONDS)
    loop._thread.join(SECONDS)
    assert (lost, engine.shut_down, loop._thread.is_alive()) == ([1], True, False)
    with pytest.raises(EngineFailed, match="what it was computing is lost"):
        loop.submit(request_of([1, 2], 3))
    loop.close()
    assert lost == [1]


def test_an_engine_that_cannot_be_made_again_says_why_twice(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """What failed first, and what failed in loading it again."""

    def rebuild() -> Any:
        raise OSError("no such device")

    loop = make_loop(failing(hash_engine, SystemExit("planted")), engine_label="loader X", rebuild=rebuild)
    error = told(loop.submit(request_of([1, 2], 3)))
    assert str(error) == (
        "The engine of tiny failed (The loader X failed in step: SystemExit: planted.) and could not be rebuilt (OSError: no such device); "
        "load it again."
    )
    assert isinstance(error.__cause__, OSError)


@pytest.mark.parametrize(("after", "engines"), [(0, 3), (1, 9)])
def test_an_engine_is_made_again_as_long_as_it_computes_something_in_between(
    after: int, engines: int, make_loop: Any, hash_engine: Any, request_of: Any
) -> None:
    """Three that fail in a row without a step are enough; of those that did one step each the ninth is still replaced."""
    made = [failing(hash_engine, SystemExit("planted"), after)]

    def rebuild() -> Any:
        made.append(failing(hash_engine, SystemExit("planted"), after) if len(made) < 9 else hash_engine())
        return made[-1]

    loop = make_loop(made[0], engine_label="loader X", rebuild=rebuild)
    errors = []
    for _ in range(9):
        try:
            errors.append(told(loop.submit(request_of([1, 2], 3, ignore_eos=True))))
        except EngineFailed as error:  # the loop has ended
            errors.append(error)
    assert len(made) == (10 if after else engines)
    if after:
        assert {str(error) for error in errors} == {
            "The engine of tiny failed, and what it was computing is lost: The loader X failed in step: SystemExit: planted."
        }
        assert len(loop.submit(request_of([1, 2], 3, ignore_eos=True)).result(SECONDS).tokens) == 3
    else:
        assert str(errors[2]) == (
            "The engine of tiny failed 3 times before it computed anything: The loader X failed in step: SystemExit: planted."
        )
        assert str(errors[-1]) == str(errors[2])
    assert all(engine.shut_down for engine in made[:9])


def test_failures_are_counted_since_something_was_computed(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """After two engines that compute nothing and one that does a step, two more that compute nothing end the loop: five in all."""
    passes = iter((0, 0, 1, 0, 0, 0))
    made = [failing(hash_engine, SystemExit("planted"), next(passes))]

    def rebuild() -> Any:
        made.append(failing(hash_engine, SystemExit("planted"), next(passes)))
        return made[-1]

    loop = make_loop(made[0], rebuild=rebuild)
    for _ in range(5):
        error = told(loop.submit(request_of([1, 2], 3, ignore_eos=True)))
    assert str(error).startswith("The engine of tiny failed 3 times before it computed anything")
    assert len(made) == 5


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_loaded_again_after_the_loop_was_given_up_is_shut_down(
    fails: bool, make_loop: Any, hash_engine: Any, request_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody will use it; where the loading fails instead, that is nobody's concern any more."""
    loading, loaded, new, lost = threading.Event(), threading.Event(), hash_engine(), list[int]()

    def rebuild() -> Any:
        loading.set()
        assert loaded.wait(SECONDS)
        if fails:
            raise OSError("no such device")
        return new

    loop = make_loop(failing(hash_engine, SystemExit("planted")), rebuild=rebuild, close_timeout=0.1, on_lost=lambda: lost.append(1))
    ticket = loop.submit(request_of([1, 2], 3))
    assert loading.wait(SECONDS)
    loop.close()
    assert str(told(ticket)) == "The model tiny is closed; load it again to use it."
    caplog.clear()
    loaded.set()
    loop._thread.join(SECONDS)
    assert (new.shut_down, caplog.messages, lost) == (not fails, [], [])


def test_the_watchdog_looks_seldom_while_steps_end(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Half a second later, or at the first deadline, or once a step could hang; each tick where a step takes longer than one. A deadline
    that has passed, of a request that has ended, changes nothing."""
    gate, now = make_gate(), [100.0]
    loop = make_loop(hash_engine(fault=gate), clock=lambda: now[0])
    late = loop.submit(request_of([1, 2], 3, arrival=100.0))
    assert gate.reached.wait(SECONDS)
    began = loop._watch.since
    assert loop.look(began) == 0.5
    assert loop.look(began + 2 * TICK) is True
    soon = loop.submit(request_of([3, 4], 3, arrival=100.0, deadline=100.25))
    assert loop.look(began) == pytest.approx(0.25)
    now[0] = 100.2
    assert loop.look(began) == TICK
    soon.fail(EngineFailed("ended"))
    now[0] = 100.5
    assert loop.look(began) == 0.5
    gate.open.set()
    late.result(SECONDS)


def test_the_watchdog_looks_often_enough_for_the_bound_of_a_step(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate), step_timeout=0.3, close_timeout=0.1)
    ticket = loop.submit(request_of([1, 2], 3))
    assert gate.reached.wait(SECONDS)
    assert loop.look(loop._watch.since) == 0.3
    assert "did not return in 0.3 seconds" in str(told(ticket))


def test_a_step_that_hangs_loses_the_model(
    make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """After the time that a step may take, and not before; the log says what callers are told, and the owner is told once."""
    gate, lost = make_gate(), []
    loop = make_loop(
        hash_engine(fault=gate), engine_label="loader X", step_timeout=500.0, close_timeout=0.1, on_lost=lambda: lost.append(1)
    )
    ticket = loop.submit(request_of([1, 2], 3))
    assert gate.reached.wait(SECONDS)
    arrived = loop.submit(request_of([3, 4], 3))
    assert loop.usage().waiting == 1
    began = loop._watch.since
    assert loop.look(began + TICK)
    assert loop.look(began + 499.9)
    assert not ticket.done
    with caplog.at_level(logging.ERROR):
        assert not loop.look(began + 500.01)
    sentence = (
        "The model tiny is lost: the loader X in step did not return in 500 seconds (resources.step_timeout); it is loaded again when it "
        "is next used."
    )
    assert str(told(ticket)) == str(told(arrived)) == sentence
    assert loop.usage().waiting == 0, "What had arrived is not taken in any more."
    assert caplog.messages == [sentence]
    assert not loop.look(began + 1000.0)
    assert lost == [1]
    with pytest.raises(EngineFailed, match="The model tiny is lost"):
        loop.submit(request_of([1], 2))
    loop.close()
    assert caplog.messages == [sentence], "It was given up before it was closed."
    gate.open.set()
    loop._thread.join(SECONDS)
    assert not loop._thread.is_alive()


def test_a_policy_that_hangs_is_named(make_loop: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    reached, opened = threading.Event(), threading.Event()

    def admit(*_: Any) -> Any:
        reached.set()
        assert opened.wait(SECONDS)
        return type(fifo)().admit(None, None)

    fifo.admit = admit
    loop = make_loop(hash_engine(), fifo, policy_label="scheduler Y", close_timeout=0.1)
    ticket = loop.submit(request_of([1, 2], 3))
    assert reached.wait(SECONDS)
    assert not loop.look(time.monotonic() + 1000)
    assert str(told(ticket)) == (
        "The model tiny is lost: the scheduling policy Fifo (scheduler Y) did not return in 600 seconds (resources.step_timeout); it is "
        "loaded again when it is next used."
    )
    opened.set()


def test_a_deadline_passes_while_a_step_hangs(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """At its time, once the step has taken a tick of the watchdog; those without one go on waiting."""
    clock, gate = [100.0], make_gate()
    loop = make_loop(hash_engine(fault=gate), engine_label="loader X", clock=lambda: clock[0])
    late, patient = loop.submit(request_of([1, 2], 3, deadline=105.0, arrival=1.0)), loop.submit(request_of([1, 2], 3, arrival=1.0))
    assert gate.reached.wait(SECONDS)
    clock[0] = 104.9
    loop.look(time.monotonic() + 1.0)
    assert not late.done
    clock[0] = 105.0
    loop.look(time.monotonic() + 1.0)
    error = told(late)
    assert isinstance(error, Cancelled)
    assert str(error) == f"Request {late.id} passed its deadline while the loader X in step was computing."
    assert not patient.done
    gate.open.set()
    assert patient.result(SECONDS).tokens


def test_closing_while_a_step_hangs_is_told(
    make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log with what hangs; to callers as any closing is. Closing once more says nothing."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate), engine_label="loader X", close_timeout=0.1)
    ticket = loop.submit(request_of([1, 2], 3))
    assert gate.reached.wait(SECONDS)
    with caplog.at_level(logging.ERROR):
        loop.close()
        loop.close()
    assert caplog.messages == ["The model tiny was closed while the loader X in step did not return; its memory is not free."]
    error = told(ticket)
    assert isinstance(error, ModelClosed)
    assert str(error) == "The model tiny is closed; load it again to use it."
    gate.open.set()


def test_a_closed_loop_leaves_nothing_behind(make_loop: Any, hash_engine: Any) -> None:
    """Its thread has the model's name while it runs, is a daemon, and is gone; so is the engine; a ``with`` block closes it too."""
    engine = hash_engine()
    with make_loop(engine) as loop:
        assert (loop._thread.name, loop._thread.daemon) == ("llmasos-tiny", True)
    assert not loop._thread.is_alive()
    assert engine.shut_down


def test_a_fault_of_core_is_logged_and_the_engine_made_anew(
    make_loop: Any, hash_engine: Any, request_of: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on its way fails with it; the next is answered."""
    loop = make_loop(hash_engine(), rebuild=hash_engine)
    commit, failed = loop._scheduler.commit, []

    def fail_once(computed: Any) -> Any:  # only called once something was computed, not in the loop's first step, which finds no request
        if not failed:
            failed.append(1)
            raise ZeroDivisionError("planted")
        return commit(computed)

    monkeypatch.setattr(loop._scheduler, "commit", fail_once)
    with caplog.at_level(logging.ERROR):
        error = told(loop.submit(request_of([1, 2], 3)))
    assert str(error) == "The engine of tiny failed, and what it was computing is lost: ZeroDivisionError: planted"
    assert caplog.messages == ["The loop of tiny failed."]
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens


def test_a_fault_in_the_recovery_itself_leaves_nobody_waiting(
    make_loop: Any, hash_engine: Any, request_of: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()
    loop = make_loop(failing(hash_engine, SystemExit("planted")), on_lost=lost.set)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("once more")

    monkeypatch.setattr(loop._scheduler, "drop_slots", fail)
    with caplog.at_level(logging.CRITICAL):
        error = told(loop.submit(request_of([1, 2], 3)))
        assert lost.wait(SECONDS)
    assert str(error) == "The loop of tiny failed, and what it was computing is lost: ZeroDivisionError: once more."
    assert caplog.messages == ["The loop of tiny ended by a fault of its own."]
    with pytest.raises(EngineFailed, match="planted"):
        loop.submit(request_of([1], 2))


def test_a_request_that_cannot_be_taken_in_fails_by_itself(
    make_loop: Any, hash_engine: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(hash_engine(), rebuild=hash_engine)
    add = loop._runner.add

    def refuse(request: Any, *rest: Any) -> Any:
        if request.id == "bad":
            raise ZeroDivisionError("planted")
        return add(request, *rest)

    monkeypatch.setattr(loop._runner, "add", refuse)
    assert (
        str(told(loop.submit(request_of([1, 2], 3, id="bad"))))
        == "The loop of tiny could not take request bad: ZeroDivisionError: planted."
    )
    assert loop.submit(request_of([1, 2], 3, id="good")).result(SECONDS).tokens


def test_what_the_loop_is_asked_to_do_fails_for_who_asked(
    make_loop: Any, hash_engine: Any, fifo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the policy, say; the loop goes on, and the next one is done."""
    loop = make_loop(hash_engine(), rebuild=hash_engine)

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(loop._scheduler, "use_policy", fail)
        with pytest.raises(EngineFailed) as caught:
            loop.use_policy(type(fifo)())
    assert str(caught.value) == "The loop of tiny could not take request call: ZeroDivisionError: planted."
    policy = type(fifo)()
    loop.use_policy(policy)
    assert loop._scheduler.policy.policy is policy


class Planted(Guard):
    """A guard of an object with two methods, one of which may run short of memory, and one of which may fail."""

    short_of_memory = frozenset({"opens"})
    may_fail = frozenset({"steps"})

    def do(self, method: str, error: BaseException | None = None) -> Any:
        def function() -> str:
            if error is not None:
                raise error
            return "done"

        return self._call(method, function)


class Closable:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.closed = error, 0

    def shutdown(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("method", "raised", "kind", "said", "lost"),
    [
        ("opens", CapacityExceeded("full"), CapacityExceeded, "full", False),
        ("opens", MemoryError(), CapacityExceeded, "The loader X ran out of memory in opens.", False),
        ("opens", ValueError("odd"), EngineFailed, "The loader X failed in opens: ValueError: odd.", True),
        ("steps", ValueError("odd"), ValueError, "odd", False),
        ("steps", SystemExit("odd"), EngineFailed, "The loader X failed in steps: SystemExit: odd.", True),
        ("steps", EngineFailed("A device is gone"), EngineFailed, "The loader X failed in steps: A device is gone.", True),
        ("steps", EngineFailed("A device is gone. "), EngineFailed, "The loader X failed in steps: A device is gone.", True),
        ("steps", CapacityExceeded("full"), EngineFailed, "The loader X raised CapacityExceeded from steps, which needs no memory.", True),
        ("steps", MemoryError(), EngineFailed, "The loader X ran out of memory in steps.", True),
    ],
    ids=str,
)
def test_what_a_plugin_raises_becomes_an_error_that_names_it(
    method: str, raised: BaseException, kind: type[Exception], said: str, lost: bool
) -> None:
    """Once it is lost, every call says so; and the watch names the call while it lasts, and nothing after it."""
    watch = Watch()
    guard = Planted(Closable(), "loader X", watch)
    assert guard.do(method) == "done"
    with pytest.raises(kind) as caught:
        guard.do(method, raised)
    assert type(caught.value) is kind
    assert str(caught.value) == said
    assert watch.calling is None
    assert (guard.lost is not None) == lost
    if lost:
        for call in (guard.check, lambda: guard.do(method)):
            with pytest.raises(EngineFailed) as again:
                call()
            assert str(again.value) == said
        assert str(guard.lose("another reason")) == said, "The first reason stays."
    else:
        guard.check()
        assert guard.do(method) == "done"


def test_a_call_of_what_was_given_up_meanwhile_returns_nothing() -> None:
    """And the watch has what was called in the calls around it."""
    watch = Watch()
    guard = Planted(Closable(), "loader X", watch)
    seen: list[Any] = []

    def outer() -> str:
        guard._call("steps", lambda: seen.append(watch.calling))
        seen.append(watch.calling)
        guard.lose("given up")
        return "late"

    with pytest.raises(EngineFailed, match=r"^given up$"):
        guard._call("opens", outer)
    assert seen == [("loader X", "steps"), ("loader X", "opens")]
    assert watch.calling is None


VOCABULARY = 97


@pytest.mark.parametrize(
    ("want", "given", "described"),
    [
        ("last", None, "a NoneType"),
        ("last", [1.5], "a float"),
        ("last", [[1.0], [2.0]], "2 results"),
        ("last", [], "0 results"),
        ("last", [np.zeros((1, 97), np.int64)], "int64 of shape (1, 97)"),
        ("last", [np.zeros((2, 97), np.float32)], "float32 of shape (2, 97)"),
        ("last", [np.zeros((1, 96), np.float32)], "float32 of shape (1, 96)"),
        ("all", [np.zeros((1, 97), np.float32)], "float32 of shape (1, 97)"),
        ("none", [np.zeros((1, 97), np.float32)], "float32 of shape (1, 97)"),
        ("hidden", [np.zeros((3, 97), np.float32)], "float32 of shape (3, 97)"),
    ],
    ids=str,
)
def test_what_a_step_returns_is_described(want: Any, given: Any, described: str, hash_engine: Any) -> None:
    """Where it is not what the row wants: one vector a token, of the vocabulary or of the hidden size, for all tokens, one, or none."""
    engine = hash_engine()
    engine.info = attrs.evolve(engine.info, hidden_size=5)
    row = Row(0, (1, 2, 3), 0, want)
    right = {"last": (1, 97), "all": (3, 97), "none": (0, 97), "hidden": (3, 5)}[want]
    for kind in (np.float32, np.float16):
        answer = np.zeros(right, kind)
        engine.step = lambda _, answer=answer: (answer,)
        assert GuardedEngine(engine, "loader X").step([row])[0] is answer
    engine.step = lambda _: given
    with pytest.raises(EngineFailed) as caught:
        GuardedEngine(engine, "loader X").step([row])
    counted = not isinstance(given, list) or len(given) != 1
    told_of = "for 1 rows" if counted else f'for a row that wants "{want}"'
    assert str(caught.value) == f"The loader X returned {described} from step {told_of}."


@pytest.mark.parametrize(
    "token",
    [-2, VOCABULARY, np.zeros(1, np.float32), np.zeros(2, np.int64), np.zeros((1, 1), np.int64), np.zeros((1, VOCABULARY), np.float32)],
    ids=str,
)
def test_a_token_that_an_engine_sampled_is_one_of_the_vocabulary(token: Any, hash_engine: Any) -> None:
    """Or -1, where it could choose none."""
    engine = hash_engine(vocab_size=VOCABULARY)
    draw = Draw(
        params=SamplingParams(), point=0.0, seen=np.zeros(0, np.int64), generated=np.zeros(0, np.int64), counts=np.zeros(0, np.float32)
    )
    row = Row(0, (1,), 0, "last", True, draw)
    for good in (-1, 0, VOCABULARY - 1):
        engine.step = lambda _, good=good: [np.array([good])]
        assert GuardedEngine(engine).step([row]) == [np.array([good])]
    wrong = np.array([token]) if isinstance(token, int) else token
    engine.step = lambda _: [wrong]
    with pytest.raises(EngineFailed) as caught:
        GuardedEngine(engine, "loader X").step([row])
    assert str(caught.value) == f'The loader X returned {wrong.dtype} of shape {wrong.shape} from step for a row that wants "last".'


@pytest.mark.parametrize("method", ["open", "fork"])
def test_slots_are_whole_numbers_that_are_not_open(method: str, hash_engine: Any) -> None:
    """A slot that was closed may come again, and numbers of numpy's are numbers."""
    engine = hash_engine()

    def guarded(slot: Any) -> tuple[GuardedEngine, Callable[[], int]]:
        setattr(engine, method, lambda *_: slot)
        guard = GuardedEngine(engine, "loader X")
        return guard, guard.open if method == "open" else lambda: guard.fork(9)

    for slot, kind in ((True, "a bool"), (1.0, "a float"), (None, "a NoneType")):
        with pytest.raises(EngineFailed) as caught:
            guarded(slot)[1]()
        assert str(caught.value) == f"The loader X returned {kind} from {method}, and a slot is a whole number."
    guard, ask = guarded(np.int64(4))
    assert ask() == 4
    with pytest.raises(EngineFailed) as again:
        ask()
    assert str(again.value) == f"The loader X returned the slot 4 from {method}, which is open already."
    engine.close = lambda _: None
    guard, ask = guarded(4)
    assert ask() == 4
    guard.close(4)
    assert ask() == 4


def test_closing_a_slot_never_fails(hash_engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next check tells; an engine that is lost is not asked any more."""
    engine, asked = hash_engine(), []

    def fail(slot: int) -> None:
        asked.append(slot)
        raise ValueError("planted")

    engine.close = fail
    guard = GuardedEngine(engine, "loader X")
    with caplog.at_level(logging.ERROR):
        guard.close(3)
        guard.close(4)
    assert (asked, caplog.messages) == ([3], ["The loader X failed in close: ValueError: planted."])
    with pytest.raises(EngineFailed, match=r"^The loader X failed in close: ValueError: planted\.$"):
        guard.check()


@pytest.mark.parametrize(
    ("given", "described"),
    [
        (None, "a NoneType"),
        ([[0.0, 0.0]], "a list"),
        (np.zeros((1, 2)), "float64 of shape (1, 2)"),
        (np.zeros((2, 2), np.float32), "float32 of shape (2, 2)"),
        (np.zeros((1, 3), np.float32), "float32 of shape (1, 3)"),
    ],
    ids=str,
)
def test_what_an_encoder_returns_is_described(given: Any, described: str) -> None:
    class Wrong(Closable):
        info = EncoderInfo(dimensions=2, pooling="mean", context_length=8, max_batch_tokens=8, vocab_size=9, weight_bytes=1)

        def encode(self, rows: Any) -> Any:
            return given

    with pytest.raises(EngineFailed) as caught:
        GuardedEncoder(Wrong(), "loader X").encode([EncoderRow([1])])
    assert str(caught.value) == f"The loader X returned {described} from encode for 1 rows, and float32 of shape (1, 2) is due."


def test_shutting_down_never_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; only the user's Ctrl-C passes."""
    closable = Closable(SystemExit("planted"))
    with caplog.at_level(logging.WARNING):
        Planted(closable, "loader X", None).shutdown()
    assert closable.closed == 1
    assert caplog.messages == ["The loader X failed to shut down: SystemExit: planted."]
    with pytest.raises(KeyboardInterrupt):
        Planted(Closable(KeyboardInterrupt()), "loader X", None).shutdown()

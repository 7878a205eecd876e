"""Plugin calls within a bound: what they give, when they are given up, and what becomes of what comes too late."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmasos.system.bounds import Bounds, signs_of_progress
from llmasos_config import Config
from llmasos_hookspecs import LLMasOSError, PluginError, ResourceError
from llmasos_hookspecs.guarding.watchdog import Watchdog
from llmasos_model_store.store import Store
from llmasos_plugin_calls import bounded
from llmasos_plugin_calls.bounded import UNBOUNDED, Bound, PluginThread, call_within
from llmasos_plugin_calls.single_flight import SingleFlight

SECONDS = 120.0  # after which somebody counts as one who waits for ever
SHORT = Bound(0.2, "resources.load_timeout")
LONG = Bound(1000.0, "resources.fetch_timeout", progress=True)


def in_thread(work: Callable[[], object]) -> Callable[[], Any]:
    """Starts ``work`` on a thread; gives a function that waits for what it returns or raises."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(SECONDS)
        assert found, "waits for ever"
        return found[0]

    return wait


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What a stalled plugin waits for; set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("bound", [UNBOUNDED, LONG], ids=["unbounded", "bounded"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(KeyError("x"), PluginError), (SystemExit(3), PluginError), (MemoryError(), ResourceError), (PluginError("Mine."), PluginError)],
    ids=["KeyError", "SystemExit", "MemoryError", "PluginError"],
)
def test_what_a_plugin_gives_and_raises_comes_through(bound: Bound, error: BaseException, kind: type[LLMasOSError]) -> None:
    """With the plugin's name, on whatever thread it ran."""
    assert call_within(bound, "loader X", "load", lambda _: 7) == 7

    def fail(_: Any) -> None:
        raise error

    with pytest.raises(kind, match=r"^Mine\.$" if type(error) is PluginError else "The loader X .* in load"):
        call_within(bound, "loader X", "load", fail)


def test_without_a_bound_a_call_stays_on_its_thread() -> None:
    """So that it costs nothing."""
    assert call_within(UNBOUNDED, "x", "y", lambda _: threading.current_thread()) is threading.current_thread()
    assert call_within(LONG, "x", "y", lambda _: threading.current_thread()) is not threading.current_thread()


def test_a_call_that_does_not_return_is_given_up(released: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """The error names plugin, method, seconds and option, and is logged."""
    said = r"^The loader X did not return from load in 0\.2 seconds, and was given up; raise resources\.load_timeout if it needs longer"
    with pytest.raises(PluginError, match=said):
        call_within(SHORT, "loader X", "load", lambda _: released.wait(SECONDS))
    assert "loader X" in caplog.text


def test_what_returns_too_late_is_discarded() -> None:
    """An engine that nobody waits for is shut down."""
    gone: list[str] = []
    done = threading.Event()

    def discard(value: str) -> None:
        gone.append(value)
        done.set()

    call = bounded._Call("load", lambda: "engine", discard)
    thread = PluginThread("loader X", LONG)
    with thread:
        assert call.answer(None, PluginError("given up"))
        thread._calls.put(call)
        assert done.wait(SECONDS)
    assert gone == ["engine"]


def test_a_thread_that_is_given_up_ends_when_it_runs_again() -> None:
    """A loop in Python does not go on for ever."""
    threads: list[threading.Thread] = []

    def spin(_: Any) -> None:
        threads.append(threading.current_thread())
        while True:
            time.sleep(0.001)

    with pytest.raises(PluginError, match="given up"):
        call_within(SHORT, "loader X", "load", spin)
    threads[0].join(SECONDS)
    assert not threads[0].is_alive()


def test_a_thread_that_is_given_up_while_it_waits_for_a_lock_leaves_it_free() -> None:
    """A log handler's, say, which every thread that logs needs: it is struck when it no longer takes the lock."""

    class Quiet(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None: ...

    handler, logger = Quiet(), logging.Logger("plugin")
    logger.addHandler(handler)
    ended = threading.Event()

    def log(_: Any) -> None:
        try:
            logger.error("x")
            while True:
                time.sleep(0.001)
        finally:
            ended.set()

    handler.acquire()
    with pytest.raises(PluginError, match="given up"):
        call_within(SHORT, "loader X", "load", log)
    assert not ended.is_set()
    handler.release()
    assert ended.wait(SECONDS)
    assert handler.lock is not None
    assert handler.lock.acquire(timeout=SECONDS)
    handler.release()


def test_progress_and_its_signs_begin_the_seconds_anew(released: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plugin reports, and what it has written; then it is given up all the same."""
    clock = [0.0]
    monkeypatch.setattr(bounded.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bounded, "watchdog", lambda: _NoWatchdog())
    written = [0]
    began = threading.Event()
    thread = PluginThread("source X", LONG, signs=lambda: written[0])

    def stall() -> None:
        began.set()
        released.wait(SECONDS)

    with thread:
        answer = in_thread(lambda: thread.call("llmasos_fetch", stall))
        assert began.wait(SECONDS)
        assert thread.look(1000.0)
        clock[0] = 900.0
        thread.progressed()
        assert thread.look(1900.0)
        written[0] = 1
        assert thread.look(1901.0)
        assert thread.look(2901.0)
        assert not thread.look(2902.0)
        with pytest.raises(PluginError, match=r"The source X made no progress in llmasos_fetch for 1000 seconds.*fetch_timeout"):
            raise answer()


class _NoWatchdog:
    def wake(self, watched: object) -> None: ...

    def forget(self, watched: object) -> None: ...


INTERRUPTED = """
import signal, threading, time
from llmasos_plugin_calls import bounded

cleaned = threading.Event()

def stall(_):
    try:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        while True:
            time.sleep(0.001)
    finally:
        cleaned.set()

bounded._CLEANING_SECONDS = 120.0
try:
    bounded.call_within(bounded.Bound(1000.0, "resources.load_timeout"), "source X", "llmasos_fetch", stall)
except KeyboardInterrupt:
    print("interrupted", cleaned.is_set())
"""


def test_ctrl_c_ends_the_waiting_and_the_plugin_can_clean_up() -> None:
    """The caller is interrupted at once, and what the plugin opened is closed before."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr


def test_a_watchdog_whose_start_is_interrupted_is_started_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come while its thread starts, which must not be taken for one that runs."""
    seen, start = threading.Event(), threading.Thread.start

    class Busy:
        def look(self, now: float) -> bool:
            seen.set()
            return False

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise KeyboardInterrupt

    dog, busy = Watchdog(), Busy()
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dog.wake(busy)
    dog.forget(busy)
    dog.wake(busy)
    assert seen.wait(SECONDS)
    dog.forget(busy)


def test_the_process_ends_though_a_plugin_does_not() -> None:
    """The program has its own exit status."""
    code = """
        import threading
        from llmasos_plugin_calls.bounded import Bound, call_within
        try:
            call_within(Bound(0.2, "resources.load_timeout"), "loader X", "load", lambda _: threading.Event().wait())
        except Exception as error:
            print(error)
        raise SystemExit(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.count("loader X")) == (7, 1), done.stderr


def test_no_thread_is_left() -> None:
    """After any number of calls, with answers and with errors; one that another test gave up may be there still."""
    before = set(threading.enumerate())
    for number in range(50):
        call_within(LONG, "loader X", "load", lambda _, number=number: number)
        with pytest.raises(PluginError):
            call_within(LONG, "loader X", "load", lambda _: {}["x"])
    for thread in set(threading.enumerate()) - before:
        if thread.name == "llmasos-plugin":
            thread.join(SECONDS)
    assert "llmasos-plugin" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_config_sets_the_bounds() -> None:
    """Each hook has the bound that its option says, and observers none."""
    config = Config.from_mapping({"resources": {"load_timeout": 1, "fetch_timeout": 2, "stage_timeout": math.inf, "task_timeout": 4}})
    found = Bounds.of(config.resources)
    assert [found.hook(f"llmasos_{name}").seconds for name in ("load", "create_task", "fetch", "accelerate")] == [1, 1, 2, math.inf]
    assert found.task.seconds == 4
    assert found.hook("llmasos_request_finished") is UNBOUNDED
    assert Bounds.of(Config.from_mapping({}).resources) == Bounds()
    assert math.isinf(Bounds().task.seconds)


def test_what_a_source_writes_into_the_store_is_progress(tmp_path: Any) -> None:
    """Also what another process writes for it."""
    store = Store(tmp_path)

    class Context:
        pass

    context = Context()
    context.store = store
    signs = signs_of_progress("llmasos_fetch", {"context": context})
    assert signs is not None
    before = signs()
    (tmp_path / "staging" / "model").mkdir(parents=True)
    (tmp_path / "staging" / "model" / "weights").write_bytes(b"1234")
    assert signs() != before


def test_callers_that_come_together_share_one_try() -> None:
    """Its result, and its error; who comes later tries again."""
    flight: SingleFlight[int] = SingleFlight()
    gate, tries = threading.Event(), []

    def fail() -> int:
        tries.append(1)
        assert gate.wait(SECONDS)
        raise PluginError("No.")

    waits = [in_thread(lambda: flight.share(fail)) for _ in range(8)]
    while len(flight._changes._bells) < 7:
        time.sleep(0.001)
    gate.set()
    errors = [wait() for wait in waits]
    assert {str(error) for error in errors} == {"No."}
    assert len(tries) == 1
    assert flight.share(lambda: 3) == 3


def test_an_interrupted_try_is_begun_anew_by_one_of_the_others() -> None:
    """The user's Ctrl-C is told to nobody else."""
    flight: SingleFlight[int] = SingleFlight()
    began, gate = threading.Event(), threading.Event()

    def interrupted() -> int:
        began.set()
        assert gate.wait(SECONDS)
        raise KeyboardInterrupt

    first = in_thread(lambda: flight.share(interrupted))
    assert began.wait(SECONDS)
    second = in_thread(lambda: flight.share(lambda: 5))
    gate.set()
    assert isinstance(first(), KeyboardInterrupt)
    assert second() == 5

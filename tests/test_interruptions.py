"""Ctrl-C may strike the main thread anywhere: nobody waits for ever for what it interrupted, and it is always noticed."""

from __future__ import annotations

import functools
import gc
import operator
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from ctypes import pythonapi
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from llmasos_engine.inbox import Inbox
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs.guarding import changes
from llmasos_hookspecs.guarding.changes import Changes, take
from llmasos_plugin_calls import bounded
from llmasos_plugin_calls.bounded import Bound, call_within

SECONDS = 120.0  # after which somebody counts as one who waits for ever
LONG = Bound(1000.0, "resources.load_timeout")


class LateSignal(SimpleQueue[Any]):
    """A queue: the first time that the main thread waits for one, Ctrl-C comes just before it begins to, after the last instruction at
    which Python looks for signals."""

    struck = False

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        wait = functools.partial(super().get, block, timeout)
        if LateSignal.struck or threading.current_thread() is not threading.main_thread():
            return wait()
        LateSignal.struck = True
        return list(map(operator.call, (functools.partial(pythonapi.PyErr_SetInterruptEx, int(signal.SIGINT)), wait)))[1]


@pytest.mark.parametrize(
    "wait",
    [
        lambda: take(LateSignal()),
        lambda: Changes().wait_for(lambda: False),
        lambda: Ticket("x", lambda: None).result(),
        lambda: next(iter(Ticket("x", lambda: None))),
        lambda: call_within(LONG, "loader X", "load", lambda _: threading.Event().wait(SECONDS)),
    ],
    ids=["queue", "change", "result", "stream", "plugin"],
)
def test_a_signal_just_before_a_wait_is_noticed(wait: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs its handler only between two instructions, so a wait without a timeout would outlast it."""
    monkeypatch.setattr(changes, "SimpleQueue", LateSignal)
    monkeypatch.setattr(bounded, "SimpleQueue", LateSignal)
    monkeypatch.setattr(bounded, "_CLEANING_SECONDS", 0.0)
    monkeypatch.setattr(LateSignal, "struck", False)
    with pytest.raises(KeyboardInterrupt):
        wait()


def test_nobody_waits_for_what_ctrl_c_interrupted() -> None:
    """Wherever it strikes, no lock stays locked, and nothing that others wait for is left begun."""
    script = Path(__file__).parent / "struck_everywhere.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["leases", "single_flight", "ticket", "inbox", "watchdog", "plugin_thread"]


def test_a_finalizer_may_need_the_lock_that_its_thread_holds() -> None:
    """The garbage collector runs it anywhere: a stream that is let go of cancels its request, say."""
    inbox = Inbox("m")

    class Stream:
        def __init__(self) -> None:
            self.itself = self

    weakref.finalize(Stream(), inbox.send, lambda: None)

    def collect() -> bool:
        gc.collect()
        return True

    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(inbox._changes.wait_for(collect)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert done == [True]
    assert inbox.next() is not None

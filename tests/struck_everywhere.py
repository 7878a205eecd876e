"""Has Ctrl-C strike everywhere in what threads wait for, once in each run of it, and sees that another thread is served after each.

A program of its own, because it traces: Python 3.11 never enters a traced function while an exception is on its way to a thread that does
not run, such as one that another test of the same process has given up. It prints the name of each part that holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import dis
import functools
import itertools
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from llmasos_engine.inbox import Inbox
from llmasos_engine.ticket import ResultTimeout, Ticket
from llmasos_hookspecs.guarding import changes
from llmasos_hookspecs.guarding.watchdog import Watchdog
from llmasos_plugin_calls import bounded
from llmasos_plugin_calls.bounded import Bound, call_within
from llmasos_plugin_calls.single_flight import SingleFlight

SECONDS = 30.0  # after which somebody counts as one who waits for ever
#: What is interrupted, and what another thread must be able to do after that.
Parts = tuple[Callable[[], object], Callable[[], object]]


@functools.cache
def before_calls(code: CodeType) -> frozenset[int]:
    """The instructions before those at which Python may run a signal's handler."""
    return frozenset(
        before.offset
        for before, each in itertools.pairwise(dis.get_instructions(code))
        if each.opname in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") or each.opname.startswith("JUMP_BACKWARD")
    )


#: A trace function of C, which has no instruction of its own where the signal could strike: as if Ctrl-C came now.
interrupt = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.py_object, ctypes.py_object)(("PyErr_SetInterrupt", ctypes.pythonapi))


def struck(action: Callable[[], object], number: int) -> str:
    """Where ``action`` was struck: at its place of that number. Empty: it has fewer."""
    passed, where = 0, ""

    def inside(frame: FrameType, event: str, _: object) -> Any:
        nonlocal passed, where
        if event == "opcode" and not where and frame.f_lasti in before_calls(frame.f_code):
            passed += 1
            if passed == number:
                where = f"{frame.f_globals['__name__']}, line {frame.f_lineno}, in {frame.f_code.co_qualname}"
                return interrupt  # called at the next instruction
        return inside

    def called(frame: FrameType, _: str, __: object) -> Any:
        if where or not str(frame.f_globals.get("__name__")).startswith(("llmasos", "threading", "contextlib")):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return inside

    def handler(_: int, __: object) -> None:
        sys.settrace(None)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    try:
        sys.settrace(called)
        try:
            action()
        finally:
            sys.settrace(None)
    except BaseException:  # where it strikes within ``threading``, that may make a RuntimeError of it
        if not where:
            raise
    return where


def strike(action: Callable[[], object], check: Callable[[], object]) -> None:
    """Run ``action`` again and again, each time interrupted at its next place, and ``check`` on another thread after each."""
    number = 1
    while where := struck(action, number):
        errors: list[BaseException] = []

        def look(errors: list[BaseException] = errors) -> None:
            try:
                check()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive(), f"somebody waits for ever, struck in {where}"
        assert not errors, (where, errors)
        number += 1
    assert number > 10, "there was nothing to strike"


def leases() -> Parts:
    """A caller that loads one model, for which another is evicted; the next one wants that."""
    home = runpy.run_path(str(Path(__file__).parents[1] / "libs" / "residency" / "tests" / "conftest.py"))["Harness"](100)
    first, second = home.add("a", 60), home.add("b", 60)

    def use(place: Any) -> None:
        home.residency.acquire(place, 10).release()

    def next_caller() -> None:
        with home.residency.leased(first, 10):
            home.check()
        home.check()
        assert home.residency.waiting == 0

    next_caller()
    return lambda: use(second), next_caller


def single_flight() -> Parts:
    flight: SingleFlight[int] = SingleFlight()
    return lambda: flight.share(lambda: 1), lambda: flight.share(lambda: 2)


def ticket() -> Parts:
    """A caller who waits for a result and reads a stream; the loop gives it more, and ends it."""
    tickets: list[Ticket[int]] = [Ticket("x", lambda: None)]

    def wait() -> None:
        tickets.append(Ticket("x", lambda: None))
        with contextlib.suppress(ResultTimeout):
            tickets[-1].result(0.001)
        tickets[-1].emit("text")
        with contextlib.closing(iter(tickets[-1])) as stream:
            assert next(stream) == "text"

    def end() -> None:
        tickets[-1].emit("more")
        tickets[-1].finish(3)
        assert tickets[-1].result() == 3

    return wait, end


def inbox() -> Parts:
    messages = Inbox("m")

    def send() -> None:
        messages.keep(Ticket("x", lambda: None))
        messages.send(lambda: None)
        messages.unfinished()

    def receive() -> None:
        messages.send(lambda: None)
        assert messages.wait(SECONDS)
        while messages.next() is not None:
            continue

    return send, receive


def watchdog() -> Parts:
    dog = Watchdog()

    class Busy:
        def __init__(self) -> None:
            self.seen = threading.Event()

        def look(self, now: float) -> bool:
            self.seen.set()
            return False

    def use() -> None:
        busy = Busy()
        dog.wake(busy)
        dog.forget(busy)

    def see() -> None:
        busy = Busy()
        dog.wake(busy)
        assert busy.seen.wait(SECONDS)
        dog.forget(busy)

    return use, see


def plugin_thread() -> Parts:
    def call() -> None:
        assert call_within(Bound(1000.0, "resources.load_timeout"), "loader X", "load", lambda _: 1) == 1

    return call, call


def main() -> None:
    changes.LOOK_SECONDS = 0.005  # type: ignore[misc]  # how long a signal that comes just before a wait goes unnoticed
    bounded._CLEANING_SECONDS = 0.0  # type: ignore[misc]  # a thread that has ended needs none
    for parts in (leases, single_flight, ticket, inbox, watchdog, plugin_thread):
        strike(*parts())
        print(parts.__name__)


if __name__ == "__main__":
    main()

"""Plugin calls within a bound of time: each runs on a thread of its own, which is left behind where the call does not return.

The watchdog keeps the time, as it does for engine loops. A thread cannot be ended from outside: one that is left behind gets an exception
when it next runs Python code, and what it returns nevertheless is discarded. It is a daemon, so it never keeps the process from exiting.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import attrs

from llmasos_hookspecs import PluginError
from llmasos_hookspecs.guarding.changes import take
from llmasos_hookspecs.guarding.edge import crossing, in_words
from llmasos_hookspecs.guarding.watchdog import TICK, watchdog

_log = logging.getLogger("llmasos")

#: Seconds that Ctrl-C waits for a plugin to clean up behind itself: to end its own child process, to release a lock.
_CLEANING_SECONDS: Final = 1.0

#: Seconds for each of the hooks that load a model or make an object: far longer than any that ends, on slow machines and for large models.
LOAD_SECONDS: Final = 1800.0
#: Seconds without progress after which a fetch is given up.
FETCH_SECONDS: Final = 1800.0
#: Seconds without progress after which an accelerator stage is given up: one matrix of a large model may take hours.
STAGE_SECONDS: Final = 6 * 3600.0

#: Module and name of the functions that take a lock, and return before anything would release it where an exception strikes.
_TAKING: Final = {("threading", "__enter__"), ("logging", "acquire"), ("logging", "_acquireLock"), ("importlib._bootstrap", "acquire")}

R = TypeVar("R")


@attrs.frozen
class Bound:
    """How long a plugin call may take.

    Attributes:
        seconds: after which the call is given up; infinity: never, and the call runs on the caller's own thread.
        option: the option in config that sets them.
        progress: they are counted from the last sign of progress, not from the beginning.
        grace: seconds more, in which the plugin can end by itself.
    """

    seconds: float
    option: str
    progress: bool = False
    grace: float = 0.0


#: For calls that are bounded elsewhere, or that nobody waits for.
UNBOUNDED: Final = Bound(math.inf, "")


class GivenUp(SystemExit):
    """Raised in the thread of a plugin call that nobody waits for any more; a thread that it ends is silent."""


class _Call:
    """One call: what it runs, and its answer. The first to acquire ``answered``, the plugin or the watchdog, answers."""

    def __init__(self, where: str, function: Callable[[], Any], discard: Callable[[Any], object]) -> None:
        self.where = where
        self.function = function
        self.discard = discard
        self.answered = threading.Lock()
        # A queue, because its methods are atomic: ``GivenUp`` may strike a thread anywhere, and must not leave a lock held.
        self.answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def answer(self, result: Any, error: BaseException | None, before: Callable[[], object] = lambda: None) -> bool:
        """Answer the caller, unless it has an answer already: then False. ``before``: called before it wakes."""
        if not self.answered.acquire(blocking=False):
            return False
        try:
            before()
        finally:
            self.answers.put((result, error))
        return True


class PluginThread:
    """A thread that calls one plugin object, one call at a time, each within a bound. Use it as a context manager.

    Where the bound is infinite there is no thread, and the calls run on the caller's.

    Attributes:
        lost: a call was given up, and the thread may still be inside it.
    """

    def __init__(self, label: str, bound: Bound, *, signs: Callable[[], object] | None = None) -> None:
        """
        Args:
            label: names the plugin in messages.
            bound: of each call.
            signs: what changes while the plugin makes progress without reporting it, such as the bytes that it has written; it is looked at
                before a call is given up.
        """
        self.lost = False
        self._label = label
        self._bound = bound
        self._signs = signs
        self._seen: object = None
        self._since = 0.0
        self._call: _Call | None = None
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        if not math.isinf(bound.seconds):
            serve = contextvars.copy_context().run
            self._thread = threading.Thread(target=serve, args=(self._serve,), name="llmasos-plugin", daemon=True)
            self._thread.start()

    def call(self, where: str, function: Callable[[], R], discard: Callable[[R], object] = lambda _: None) -> R:
        """What ``function`` returns, or the error that ``as_ours`` makes of what it raises. ``where`` names the plugin's method.

        Where it does not return in time, ``discard`` gets what it returns later; also where a signal's handler raises meanwhile, as Ctrl-C
        does. After that the thread takes no further call.

        Raises:
            PluginError: it did not return in time, or failed with an error that it did not mean.
            ResourceError: it ran out of memory.
            LLMasOSError: an error that it raised on purpose.
        """
        if self._thread is None:
            with crossing(self._label, where):
                return function()
        call = _Call(where, function, discard)
        self._seen = self._signs() if self._signs is not None else None
        self._since, self._call = time.monotonic(), call
        try:
            self._calls.put(call)
            watchdog().wake(self)
            result, error = take(call.answers)
        except BaseException as interruption:
            if self._give_up(call, interruption):
                self._thread.join(_CLEANING_SECONDS)
            raise
        finally:
            self._call = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else its traceback refers to itself
        found: R = result
        return found

    def progressed(self) -> None:
        """The current call has made progress."""
        if self._bound.progress:
            self._since = time.monotonic()

    def look(self, now: float) -> bool:
        """Called by the watchdog: give the call up where it is past its bound. Returns whether to be called again."""
        call = self._call
        if call is None or call.answered.locked():
            return False
        if now - self._since <= self._bound.seconds + self._bound.grace:
            return True
        if self._signs is not None and (seen := self._signs()) != self._seen:
            self._seen, self._since = seen, now
            return True
        took = f"made no progress in {call.where} for" if self._bound.progress else f"did not return from {call.where} in"
        error = PluginError(
            f"The {self._label} {took} {self._bound.seconds:g} seconds, and was given up; raise {self._bound.option} if it needs longer, "
            "else try another version of the plugin or tell its author."
        )
        self._give_up(call, error, lambda: _log.error("%s", error))
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._calls.put(None)
            watchdog().forget(self)

    def _give_up(self, call: _Call, error: BaseException, before: Callable[[], object] = lambda: None) -> bool:
        """Answer with ``error`` in the plugin's place; False where the plugin has answered. ``before``: called before the caller wakes."""

        def lose() -> None:
            self.lost = True
            before()

        if not call.answer(None, error, lose):
            return False
        if self._thread is not None:
            if _takes_lock(self._thread):
                threading.Thread(target=_end_later, args=(self._thread,), name="llmasos-given-up", daemon=True).start()
            else:
                _end(self._thread)
        return True

    def _serve(self) -> None:
        with contextlib.suppress(GivenUp):
            while (call := self._calls.get()) is not None:
                if not self._make(call):
                    return
                del call

    def _make(self, call: _Call) -> bool:
        """Make one call; False where nobody waits for it any more."""
        result: Any = None
        raised: BaseException | None = None
        try:
            with crossing(self._label, call.where):
                result = call.function()
        except BaseException as error:
            raised = error
        if call.answer(result, raised):
            return True
        if raised is None:
            try:
                call.discard(result)
            except Exception as error:
                _log.warning("The %s failed after it was given up: %s.", self._label, in_words(error))
        return False


def _end(thread: threading.Thread) -> None:
    """Raise ``GivenUp`` in a thread when it next runs Python code."""
    if thread.ident is not None and thread.is_alive():
        import ctypes

        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(GivenUp))


def _end_later(thread: threading.Thread) -> None:
    while thread.is_alive() and _takes_lock(thread):
        time.sleep(TICK)
    _end(thread)


def _takes_lock(thread: threading.Thread) -> bool:
    """Whether a thread waits for a lock in a function of Python's library that would leave it locked, were it struck when it has it."""
    frame = None if thread.ident is None else sys._current_frames().get(thread.ident)
    return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) in _TAKING


def call_within(
    bound: Bound,
    label: str,
    where: str,
    function: Callable[[Callable[[], None]], R],
    *,
    discard: Callable[[R], object] = lambda _: None,
    signs: Callable[[], object] | None = None,
) -> R:
    """``PluginThread.call`` of one function, which gets a function to report progress with."""
    with PluginThread(label, bound, signs=signs) as thread:
        return thread.call(where, lambda: function(thread.progressed), discard)

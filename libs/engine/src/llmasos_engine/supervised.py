"""A thread that calls one plugin's object for any number of callers: its rounds, the watchdog's view of it, recovery, and its end."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from llmasos_engine.exiting import begin_exit
from llmasos_engine.guard import Guard
from llmasos_engine.heap import trim_heap
from llmasos_engine.inbox import Inbox, closed_error
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import Cancelled, EngineFailed, LLMasOSError, ModelClosed
from llmasos_hookspecs.guarding.edge import in_words
from llmasos_hookspecs.guarding.watchdog import TICK, Watch, watchdog

_log = logging.getLogger("llmasos_engine")
#: Seconds without work after which a loop returns freed heap memory to the system.
IDLE_SECONDS: Final = 1.0
#: Default limit of one round of the loop in seconds: far longer than any step that ends.
STEP_SECONDS: Final = 600.0
#: Seconds that ``close`` waits for a plugin call to return.
CLOSE_SECONDS: Final = 10.0
#: Seconds between two looks of the watchdog while steps end.
_SELDOM: Final = 0.5
#: Consecutive engine failures without a computed token in between after which the loop gives the engine up.
_REBUILDS: Final = 3


G = TypeVar("G", bound=Guard)
G_contra = TypeVar("G_contra", bound=Guard, contravariant=True)


class Work(Protocol[G_contra]):
    """What the loop does in its rounds. All methods but ``abandon`` are called on the loop's thread.

    Attributes:
        moves: count of rounds that computed something.
    """

    moves: int

    def step(self) -> bool:
        """Do one round; returns whether there is more to do."""
        ...

    def fail_all(self, error: LLMasOSError) -> None:
        """End every request with ``error``."""
        ...

    def replace_engine(self, engine: G_contra | None, error: LLMasOSError) -> None:
        """Fail what the old engine was computing with ``error``, and go on with ``engine``; None: end everything."""
        ...

    def abandon(self, error: LLMasOSError) -> None:
        """The loop's thread is given up: from any thread, record what was running."""
        ...


class SupervisedLoop(ABC, Generic[G]):
    """Runs a plugin's object on a daemon thread of its own. All methods are thread-safe.

    A watchdog supervises the thread: while a plugin call does not return, requests still end at their deadlines, and after
    ``step_timeout`` seconds the model is lost and all callers get an error that names the plugin. A subclass makes its work from
    ``self._engine`` and then calls ``_begin``.
    """

    def __init__(
        self,
        engine: G,
        *,
        model: str,
        watch: Watch,
        label: str,
        rebuild: Callable[[], G] | None,
        on_lost: Callable[[], None],
        step_timeout: float,
        close_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        """``engine``: the guarded object, which reports its calls to ``watch``; ``label`` names its plugin in messages; ``rebuild`` makes
        another after it failed; None: a failure ends the loop."""
        self.model: Final = model
        self._watch = watch
        self._engine_label = label
        self._engine = engine
        self._rebuild = rebuild
        self._on_lost = on_lost
        self._step_timeout = step_timeout
        self._close_timeout = close_timeout
        self._clock = clock
        self._inbox = Inbox(model, functools.partial(_look_soon, weakref.ref(self)))
        self._given_up = self._rebuilding = False
        self._giving_up = threading.Lock()
        self._failures = self._moves = 0
        self._trimmed = False
        self._thread = threading.Thread(target=self._run, name=f"llmasos-{model}", daemon=True)

    @property
    @abstractmethod
    def _work(self) -> Work[G]:
        """What the rounds do."""

    def _between_calls(self) -> str:
        """What the thread is in while it calls no plugin, for messages."""
        return f"the loop of {self.model}"

    def _begin(self) -> None:
        _loops.add(self)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fail unfinished requests with ``ModelClosed``, end the thread and shut the engine down. Calling it again does nothing.

        Where a plugin call does not return, its thread is abandoned with the memory it holds: it is a daemon, and ends with the process.
        """
        self._inbox.ask_to_end()
        if threading.current_thread() is not self._thread and not self._given_up:
            self._thread.join(self._close_timeout)
            if self._thread.is_alive():
                _log.error("The model %s was closed while %s did not return; its memory is not free.", self.model, self._current_plugin())
                self._give_up(closed_error(self.model))
        watchdog().forget(self)

    # Called by the watchdog

    def look(self, now: float) -> bool | float:
        """Called by the watchdog: while the loop's thread is inside a plugin, end requests at their deadlines; past ``step_timeout``,
        give the model up. Returns whether to be called again, or when: where steps end it may take its time."""
        since = self._watch.since
        if since is None or self._given_up:
            return False
        clock = self._clock()
        overdue = self._inbox.overdue(clock)
        if takes_long := now - since > TICK:
            self._inbox.wakeups.flush()  # of answers whose step hangs in a plugin before all of them are delivered
            self._expire(overdue)
        if now - since > self._step_timeout and not self._rebuilding:  # a load has a bound of its own
            error = EngineFailed(
                f"The model {self.model} is lost: {self._current_plugin()} did not return in {self._step_timeout:g} seconds "
                "(resources.step_timeout); it is loaded again when it is next used."
            )
            _log.error("%s", error)
            self._give_up(error)
            self._on_lost()
            return False
        return takes_long or max(TICK, min(_SELDOM, self._step_timeout, self._inbox.first_deadline - clock))

    def _expire(self, overdue: Sequence[Ticket[Any]]) -> None:
        """Fail tickets past their deadline; the loop removes their requests when the plugin call returns."""
        for ticket in overdue:
            ticket.fail(Cancelled(f"Request {ticket.id} passed its deadline while {self._current_plugin()} was computing."))

    def _give_up(self, error: LLMasOSError) -> None:
        """Fail every ticket with ``error``, from any thread; the loop's own thread ends when its plugin call returns."""
        with self._giving_up:
            if self._given_up:
                return
            self._given_up = True
        self._inbox.end(error, discard=True)
        self._engine.lose(str(error))
        self._inbox.wakeups.flush()
        self._work.abandon(error)
        for ticket in self._inbox.unfinished():
            ticket.fail(error)

    def _current_plugin(self) -> str:
        """The plugin that the loop's thread is calling, for messages."""
        calling = self._watch.calling
        return self._between_calls() if calling is None else f"the {calling[0]} in {calling[1]}"

    def _call(self, action: Callable[[], object]) -> None:
        """Run ``action`` on the loop's thread and wait for it."""
        if threading.current_thread() is self._thread:
            action()
            return
        ticket: Ticket[None] = Ticket("call", lambda: None)
        self._inbox.keep(ticket)

        def act() -> None:
            action()
            ticket.finish(None)

        self._inbox.send(act, tickets=[ticket])
        ticket.result()

    # On the loop's thread

    def _run(self) -> None:
        inbox, watch, work = self._inbox, self._watch, self._work
        try:
            while not inbox.closing and inbox.closed is None:
                idle, watch.since = watch.since is None, time.monotonic()
                if idle:
                    watchdog().wake(self)
                try:
                    if self._engine.lost is not None:
                        self._engine.check()
                    if inbox.messages:
                        self._take_in()
                    busy = work.step()
                except BaseException as error:
                    self._recover(error)
                else:
                    if busy:
                        self._trimmed = False
                    else:
                        self._sleep()
            self._end()
        except BaseException as error:  # the recovery itself failed: no caller may wait for ever
            _log.critical("The loop of %s ended by a fault of its own.", self.model, exc_info=error)
            self._give_up(EngineFailed(f"The loop of {self.model} failed, and what it was computing is lost: {in_words(error)}."))
            self._on_lost()
        finally:
            self._engine.shutdown()
            self._watch.since = None

    def _take_in(self) -> None:
        while (message := self._inbox.next()) is not None:
            try:
                message.action()
            except BaseException as error:
                for ticket in message.tickets:
                    ticket.fail(EngineFailed(f"The loop of {self.model} could not take request {ticket.id}: {in_words(error)}."))
                raise

    def _sleep(self) -> None:
        self._watch.since = None
        if self._inbox.wait(None if self._trimmed else IDLE_SECONDS):
            return
        self._trimmed = True
        trim_heap()

    def _recover(self, error: BaseException) -> None:
        """The engine is lost, or its state is unknown after a fault of core: continue with a new engine, or end the loop."""
        if self._given_up:
            return
        if not isinstance(error, EngineFailed):
            _log.error("The loop of %s failed.", self.model, exc_info=error)
        self._engine.shutdown()
        told = str(error) if isinstance(error, LLMasOSError) else in_words(error)
        failure = EngineFailed(f"The engine of {self.model} failed, and what it was computing is lost: {told}")
        failure.__cause__ = error
        self._failures = self._failures + 1 if self._work.moves == self._moves else 1
        self._moves = self._work.moves
        engine: G | None = None
        if self._failures >= _REBUILDS:
            failure = EngineFailed(f"The engine of {self.model} failed {_REBUILDS} times before it computed anything: {told}")
            failure.__cause__ = error
        elif self._rebuild is not None:
            try:
                engine = self._load_again(self._rebuild)
            except BaseException as second:
                failure = EngineFailed(
                    f"The engine of {self.model} failed ({told}) and could not be rebuilt ({in_words(second)}); load it again."
                )
                failure.__cause__ = second
        if self._given_up:  # meanwhile
            if engine is not None:
                engine.shutdown()
            return
        if engine is None:
            self._inbox.end(failure)
        else:
            self._engine = engine
        self._work.replace_engine(engine, failure)
        if engine is None:
            self._on_lost()

    def _load_again(self, load: Callable[[], G]) -> G:
        """A new engine; meanwhile requests end at their deadlines, and messages name the loader."""
        self._watch.calling, self._rebuilding = (self._engine_label, "llmasos_load"), True
        try:
            return load()
        finally:
            self._watch.since = time.monotonic()
            self._watch.calling, self._rebuilding = None, False

    def _end(self) -> None:
        if self._given_up:
            return
        reason = self._inbox.closed or closed_error(self.model)
        self._inbox.end(reason)
        self._take_in()  # tickets of requests that arrived last get their error too
        self._work.fail_all(reason)

    def _after_fork(self) -> None:
        """In a forked child, where the loop's thread does not exist."""
        where = "before this process was forked, and its thread stayed in the parent"
        self._inbox.after_fork(ModelClosed(f"The model {self.model} was loaded {where}; load it again here."))


def _look_soon(of: weakref.ref[SupervisedLoop[Any]]) -> None:
    """Have the watchdog look at a loop within a tick."""
    if (loop := of()) is not None:
        watchdog().wake(loop)


_loops: weakref.WeakSet[SupervisedLoop[Any]] = weakref.WeakSet()


def _close_all() -> None:
    """At exit: a daemon thread in native code can crash the process while the interpreter shuts down."""
    begin_exit()
    for loop in list(_loops):
        loop.close()


def _after_fork_in_child() -> None:
    for loop in list(_loops):
        loop._after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

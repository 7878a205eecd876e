"""Observers, each with a queue and a thread of its own: a slow or failing one never delays a request."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from llmasos_hookspecs import ConfigError, LLMasOSError
from llmasos_hookspecs.guarding.changes import Changes

_log = logging.getLogger("llmasos.observers")

#: Most events in an observer's queue; further events are dropped, and counted.
WAITING: Final = 1024
#: Seconds after its last event for which an observer's thread stays.
_STAYS: Final = 5.0
#: Seconds that closing a pipeline waits for its observers, all together.
CLOSE_SECONDS: Final = 5.0
#: What listeners are told of guards; plugins have no such hook.
GUARD_FIRED: Final = "guard fired"
#: What tells of a record.
_RECORDS: Final = ("llmasos_request_started", "llmasos_request_finished", "llmasos_step", GUARD_FIRED)


class Observer:
    """Delivers events to one plugin, in order, on a daemon thread. It stays a while for the next event, since what tells of events (an
    engine's thread, mostly) should not have to start a thread for each.

    Attributes:
        label: names the plugin in messages.
        hooks: that it implements, and it is told of nothing else; None: it is told of everything.
        dropped: count of events that were dropped because the queue was full.
    """

    def __init__(self, label: str, tell: Callable[..., object], hooks: Iterable[str] | None = None) -> None:
        """``tell``: calls a hook of the plugin: ``tell(hook, **arguments)``."""
        self.label: Final = label
        self.hooks: Final = None if hooks is None else frozenset(hooks)
        self.dropped = 0
        self._tell = tell
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._changes = Changes()
        self._thread: threading.Thread | None = None
        self._finishing = False

    def tell(self, hook: str, **arguments: Any) -> None:
        """Queue an event, from any thread, where the plugin has its hook; returns at once."""
        if not self.listens(hook):
            return
        with self._changes.lock:
            if len(self._waiting) >= WAITING:
                self.dropped += 1
                first = self.dropped == 1
            else:
                first = False
                self._waiting.append((hook, arguments))
                if self._thread is None or not self._thread.is_alive():  # dead in a forked child
                    self._thread = threading.Thread(target=self._run, name="llmasos-observer", daemon=True)
                    self._thread.start()
                else:
                    self._changes.tell()
        if first:
            _log.warning(
                "The %s is too slow: %d events wait in its queue, and further events are dropped until it has caught up.",
                self.label,
                WAITING,
            )

    def listens(self, hook: str) -> bool:
        """Whether the plugin implements a hook."""
        return self.hooks is None or hook in self.hooks

    def finish(self, timeout: float) -> bool:
        """Wait until the queue is empty, and the thread has ended; False where that takes longer. On the observer's own thread it does not
        wait. Events may still come, and are delivered."""
        with self._changes.lock:
            self._finishing = True
            self._changes.tell()
        if self._thread is threading.current_thread():
            return True
        return self._changes.wait_for(lambda: self._thread is None or not self._thread.is_alive(), max(0.0, timeout))

    def describe(self) -> dict[str, Any]:
        """Its state as plain data."""
        with self._changes.lock:
            return {"observer": self.label, "waiting": len(self._waiting), "dropped": self.dropped}

    def _run(self) -> None:
        while True:
            if not self._waiting:  # which this thread alone empties
                self._changes.wait_for(lambda: bool(self._waiting) or self._finishing, _STAYS, struck=False)
            with self._changes.lock:
                if not self._waiting:
                    self._thread = None
                    self._changes.tell()
                    return
                hook, arguments = self._waiting.popleft()
            try:
                self._tell(hook, **arguments)
            except LLMasOSError as error:
                _log.warning("%s", error)
            except BaseException:
                _log.exception("The %s failed in %s.", self.label, hook)


class Audience:
    """The observers of one pipeline, and the listeners that come and go while it is open."""

    def __init__(self, observers: Sequence[Observer], *, open_to_listeners: bool) -> None:
        """``open_to_listeners``: without it, what no observer hears of is not measured."""
        self._observers = tuple(observers)
        self._open = open_to_listeners
        self._lock = threading.Lock()

    def teller(self, hook: str) -> Callable[[Any], None] | None:
        """What tells all of a record, to be called wherever it comes to be; None where nobody will hear of it."""
        if not self._open and not any(observer.listens(hook) for observer in self._observers):
            return None

        def tell(record: Any) -> None:
            for observer in self._observers:
                observer.tell(hook, record=record)

        return tell

    def join(self, label: str, listener: Callable[[Any], object]) -> Callable[[], None]:
        """Tell ``listener``, which messages call ``label``, of every record from now on; returns what ends that. Raises ``ConfigError``."""
        if not self._open:
            raise ConfigError(
                "A pipeline tells listeners of its requests where its config names a server; add a [[server]] table.", "server"
            )
        left = threading.Event()

        def tell(hook: str, record: Any) -> None:
            if not left.is_set():
                listener(record)

        observer = Observer(label, tell, _RECORDS)
        with self._lock:
            self._observers = (*self._observers, observer)

        def leave() -> None:
            left.set()  # a record that is being told of now may come to its queue later
            with self._lock:
                self._observers = tuple(each for each in self._observers if each is not observer)
            observer.finish(CLOSE_SECONDS)

        return leave

    def announce(self, hook: str, **arguments: Any) -> None:
        """Tell all observers of an event of the pipeline itself."""
        for observer in self._observers:
            observer.tell(hook, **arguments)

    def describe(self) -> list[dict[str, Any]]:
        """The state of each as plain data."""
        return [observer.describe() for observer in self._observers]

    def close(self, hook: str, **arguments: Any) -> None:
        """Deliver the closing event to all observers, and wait a few seconds for them."""
        self.announce(hook, **arguments)
        end = time.monotonic() + CLOSE_SECONDS
        for observer in self._observers:
            if not observer.finish(end - time.monotonic()):
                _log.warning("The %s is left behind: it was not done %g seconds after the pipeline closed.", observer.label, CLOSE_SECONDS)
            if observer.dropped:
                _log.warning("The %s was too slow, and %d events for it were dropped.", observer.label, observer.dropped)

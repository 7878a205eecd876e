"""An observer's queue and thread: a slow or failing observer never delays a request."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.guarding.changes import Changes

_log = logging.getLogger("llmasos.observers")

#: Most events in an observer's queue; further events are dropped, and counted.
WAITING: Final = 1024
#: Seconds that closing a pipeline waits for its observers, all together.
CLOSE_SECONDS: Final = 5.0


class Observer:
    """Delivers events to one plugin, in order, on a daemon thread that runs while the queue holds any.

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
        """Wait until the queue is empty; False where that takes longer. On the observer's own thread it does not wait."""
        if self._thread is threading.current_thread():
            return True
        return self._changes.wait_for(lambda: self._thread is None or not self._thread.is_alive(), max(0.0, timeout))

    def describe(self) -> dict[str, Any]:
        """Its state as plain data."""
        with self._changes.lock:
            return {"observer": self.label, "waiting": len(self._waiting), "dropped": self.dropped}

    def _run(self) -> None:
        while True:
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


def close_observers(observers: Sequence[Observer], hook: str, **arguments: Any) -> None:
    """Deliver the closing event to all observers, and wait a few seconds for them."""
    for observer in observers:
        observer.tell(hook, **arguments)
    end = time.monotonic() + CLOSE_SECONDS
    for observer in observers:
        if not observer.finish(end - time.monotonic()):
            _log.warning("The %s is left behind: it was not done %g seconds after the pipeline closed.", observer.label, CLOSE_SECONDS)
        if observer.dropped:
            _log.warning("The %s was too slow, and %d events for it were dropped.", observer.label, observer.dropped)

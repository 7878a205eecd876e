"""Unloads models that were not used for longer than their keep-alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from llmasos_hookspecs.guarding.changes import Changes
from llmasos_residency.tracked_model import TrackedModel


class Models(Protocol):
    """The residency, as what unloads its models sees it."""

    @property
    def changes(self) -> Changes:
        """The lock, and what is told where a model is used or unloaded."""
        ...

    def models(self) -> Sequence[TrackedModel]:
        """All models that are not closed."""
        ...

    def unload(self, model: TrackedModel) -> bool:
        """Unload a model now; False where it is in use or not loaded."""
        ...


class KeepAlive:
    """A thread that runs while a loaded model has a keep-alive."""

    def __init__(self, residency: Models, clock: Callable[[], float]) -> None:
        self._residency: Final = residency
        self._clock: Final = clock
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, where it does not yet."""
        with self._residency.changes.lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="llmasos-keep-alive", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._residency.changes.lock:
                due = {
                    id(model): (model.last_used + model.keep_alive, model)
                    for model in self._residency.models()
                    if model.keep_alive is not None and model.state == "loaded" and not model.pinned
                }
                now = self._clock()
                over = [model for when, model in due.values() if when <= now and not model.leases]
                if not due:
                    self._thread = None
                    return
                idle = [when for when, model in due.values() if not model.leases]
                pause = self._residency.changes.next(max(0.01, min(idle) - now) if idle else None)
            if not over:
                pause()
            for model in over:
                self._residency.unload(model)

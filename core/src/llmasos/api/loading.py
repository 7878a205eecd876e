"""Progress of a load in a terminal or a notebook, once the load takes long."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from llmasos_hookspecs import Progress

#: Seconds that a load may take before anything is shown.
PATIENCE: Final = 2.0


class LoadBar:
    """A ``ProgressSink`` that is silent until its ``with`` block has taken ``PATIENCE`` seconds, and then shows what is going on: a bar for
    each part that tells how far it is, below one for the whole. Nothing is shown where standard error is no terminal or notebook.
    """

    def __init__(self, label: str, *, console: Console | None = None, patience: float = PATIENCE) -> None:
        self._label = label
        self._console = console
        self._timer = threading.Timer(patience, self._show)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}
        self._bars: Bars | None = None
        self._over = False

    def __enter__(self) -> Self:
        if self._console is not None or sys.stderr.isatty() or "ipykernel" in sys.modules:
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    @contextlib.contextmanager
    def progress(self, label: str, total: float | None, unit: str) -> Iterator[Progress]:
        part = _Part(self, label, total)
        with self._lock:
            self._parts[id(part)] = part
            self._draw(part)
        try:
            yield part
        finally:
            with self._lock:
                del self._parts[id(part)]
                if self._bars is not None and part.task is not None:
                    self._bars.remove_task(part.task)

    def note(self, message: str) -> None:
        pass

    def moved(self, part: _Part, amount: float) -> None:
        """A part has come so much further."""
        with self._lock:
            part.done += amount
            if self._bars is not None and part.task is not None:
                self._bars.update(part.task, completed=part.done)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress as Bars, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = self._console or Console(stderr=True)
        bars = Bars(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True)
        bars.add_task(self._label, total=None)
        with self._lock:
            if self._over:
                return
            self._bars = bars
            for part in self._parts.values():
                self._draw(part)
            bars.start()

    def _draw(self, part: _Part) -> None:
        if self._bars is not None:
            part.task = self._bars.add_task(part.label, total=part.total, completed=int(part.done))


class _Part:
    """One piece of work that tells how far it is."""

    def __init__(self, owner: LoadBar, label: str, total: float | None) -> None:
        self.label, self.total = label, total
        self.done = 0.0
        self.task: Any = None
        self._owner = owner

    def advance(self, amount: float = 1) -> None:
        self._owner.moved(self, amount)

"""What Python's garbage collector takes, told apart from what is measured."""

from __future__ import annotations

import gc
import time
from typing import Any, Self


class CollectorTime:
    """Counts while the ``with`` block runs.

    Attributes:
        seconds: processor time of the collector's passes so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._began

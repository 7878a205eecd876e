"""Measures whether work leaves memory behind."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path


def growth(work: Callable[[], None], enough: int, attempts: int = 3) -> int:
    """Bytes by which the process grows while it does ``work``: the least of several attempts, which end with one of fewer than ``enough``.

    What counts is Python's and numpy's own memory or the resident set, whichever grew by more. The first is exact. The second alone sees
    what native code keeps; it misses what fits into memory that was freed before, and grows once when an arena or a thread pool does. A
    leak grows each time.
    """
    least = sys.maxsize
    for _ in range(attempts):
        resident = _resident_bytes()
        tracemalloc.start()
        try:
            traced = tracemalloc.get_traced_memory()[0]
            work()
            gc.collect()
            least = min(least, max(tracemalloc.get_traced_memory()[0] - traced, _resident_bytes() - resident))
        finally:
            tracemalloc.stop()
        if least < enough:
            break
    return least


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the slots themselves are still counted
        return 0
    return pages * 4096

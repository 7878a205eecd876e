"""Work over many rows on the cores that are free while no step computes.

numpy lets go of the interpreter while it works through an array, so threads gain where each call has tens of thousands of numbers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

#: More threads would wait for the interpreter more than they compute.
_MOST_THREADS: Final = 4

_pool: ThreadPoolExecutor | None = None


def threads(most: int | None = None) -> int:
    """How many threads gain, the caller's among them: the cores there are, up to ``most``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS if most is None else min(most, _MOST_THREADS))


def share_out(count: int, parts: int, work: Callable[[int, int], None], threads: int) -> None:
    """Call ``work(begin, end)`` for ``parts`` ranges that make up ``range(count)``, on so many threads. Raises what ``work`` raises.

    The calling thread takes one range after the other as well, so that a thread that gets no core delays nothing.
    """
    turns = itertools.count()

    def run() -> None:
        while (turn := next(turns)) < parts:
            work(turn * count // parts, (turn + 1) * count // parts)

    helpers = min(threads, parts) - 1
    futures = [_helpers().submit(run) for _ in range(helpers)]
    try:
        run()
    finally:
        running = [future for future in futures if not future.cancel()]
        for future in running:
            future.exception()
    for future in running:
        future.result()


def _helpers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix="llmasos-sampling")
    return _pool


def _after_fork_in_child() -> None:
    global _pool
    _pool = None  # its threads are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

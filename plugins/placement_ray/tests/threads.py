"""Work on threads of its own, with its outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import psutil

#: After these somebody counts as one who waits for ever.
SECONDS = 30.0

Outcome = TypeVar("Outcome")


def started(work: Callable[[], Outcome]) -> Future[Outcome]:
    """The outcome of ``work``, which a thread of its own comes to."""
    outcome: Future[Outcome] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def open_files() -> int:
    """How many this process has."""
    count: int = psutil.Process().num_fds()
    return count

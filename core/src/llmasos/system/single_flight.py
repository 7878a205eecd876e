"""One caller does the work, and those that want the same meanwhile wait for what it gives or raises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from llmasos_hookspecs import LLMasOSError

R = TypeVar("R")


class SingleFlight(Generic[R]):
    """Shares work between the callers that ask for it at the same time; nothing is kept for later ones.

    So callers that come together to a plugin that does not return wait for one bound, not each for its own after the one before it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flight: _Flight[R] | None = None

    def share(self, work: Callable[[], R]) -> R:
        """What ``work`` returns or raises, this caller's or another's that runs already.

        Where the caller that runs it is interrupted, one of the others begins anew.
        """
        while True:
            with self._lock:
                flight = self._flight
                mine = flight is None
                if flight is None:
                    flight = self._flight = _Flight()
            if mine:
                return self._fly(flight, work)
            flight.over.wait()
            if flight.error is not None:
                raise flight.error.with_traceback(None)
            if flight.results:
                return flight.results[0]

    def _fly(self, flight: _Flight[R], work: Callable[[], R]) -> R:
        try:
            flight.results.append(work())
        except LLMasOSError as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                self._flight = None
            flight.over.set()
        return flight.results[0]


class _Flight(Generic[R]):
    """Work in progress, and what came of it: one result, or an error, or neither where it was interrupted."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.results: list[R] = []
        self.error: LLMasOSError | None = None

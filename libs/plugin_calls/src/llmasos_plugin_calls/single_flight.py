"""One caller does the work, and those that want the same meanwhile wait for what it gives or raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.guarding.changes import Changes

R = TypeVar("R")


class SingleFlight(Generic[R]):
    """Shares work between the callers that ask for it at the same time; nothing is kept for later ones.

    So callers that come together to a plugin that does not return wait for one bound, not each for its own after the one before it.
    """

    def __init__(self) -> None:
        self._changes = Changes()
        self._flight: _Flight[R] | None = None

    def share(self, work: Callable[[], R]) -> R:
        """What ``work`` returns or raises, this caller's or another's that runs already.

        Where the caller that runs it is interrupted, one of the others begins anew.
        """
        while True:
            mine: _Flight[R] = _Flight()
            try:
                with self._changes.lock:
                    flight = self._flight = self._flight or mine
                if flight is mine:
                    mine.fly(work)
                    self._end(mine)
            except BaseException:  # wherever this caller was interrupted
                self._end(mine)
                raise
            self._changes.wait_for(lambda flight=flight: flight.over)  # type: ignore[misc]  # mypy infers no type of such a lambda
            if flight.error is not None:
                raise flight.error if flight is mine else flight.error.with_traceback(None)
            if flight.results:
                return flight.results[0]

    def _end(self, flight: _Flight[R]) -> None:
        with self._changes.lock:
            flight.over = True
            if self._flight is flight:
                self._flight = None
                self._changes.tell()


class _Flight(Generic[R]):
    """Work in progress, and what came of it: one result, or an error, or neither where it was interrupted."""

    def __init__(self) -> None:
        self.over = False
        self.results: list[R] = []
        self.error: LLMasOSError | None = None

    def fly(self, work: Callable[[], R]) -> None:
        """Do the work, and keep what comes of it."""
        try:
            self.results.append(work())
        except LLMasOSError as error:
            self.error = error

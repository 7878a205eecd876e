"""Leases: what keeps a model in memory while somebody uses it."""

from __future__ import annotations

from collections.abc import Callable

from llmasos_residency.tracked_model import TrackedModel


class Lease:
    """A model that stays in memory until ``release``, with KV memory claimed for a request of ``tokens`` tokens; then it is ``over``."""

    def __init__(self, model: TrackedModel, tokens: int, end: Callable[[Lease], object]) -> None:
        """``end`` frees what the lease holds and marks it as over; calling it again does nothing."""
        self.model = model
        self.tokens = tokens
        self.over = False
        self._end = end

    def release(self) -> None:
        """End the lease. Calling it again does nothing."""
        try:
            self._end(self)
        except BaseException:  # Ctrl-C may strike here too
            self._end(self)
            raise

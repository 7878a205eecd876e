"""How many replicas a model has where config gives a range: more where requests wait, fewer where replicas have little to do."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs

from llmasos_replicas.replica_range import ReplicaRange

#: Seconds that requests must wait too long before a replica is added: a burst that the replicas work off by themselves needs none.
_PRESSED_SECONDS: Final = 1.0
#: Seconds for which a time to the first token counts.
_WINDOW: Final = 30.0
#: Share of those times that must be within the target.
_SHARE: Final = 0.95


@attrs.frozen(kw_only=True)
class Load:
    """What the replicas of a model have to do.

    Attributes:
        replicas: those that serve or are being started, and shall stay.
        starting: how many of these do not serve yet.
        waiting: requests that no replica has begun.
        unfinished: all requests.
        longest: seconds that the oldest of ``waiting`` has waited.
    """

    replicas: int
    starting: int
    waiting: int
    unfinished: int
    longest: float


class Scaling:
    """Decides from the load and the time alone."""

    def __init__(self, bounds: ReplicaRange, sequences: int) -> None:
        """``sequences``: that a replica computes at once."""
        self.bounds: Final = bounds
        self._sequences = sequences
        self._pressed_since: float | None = None
        self._spare_since: float | None = None
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=1024)

    def first_token(self, now: float, seconds: float) -> None:
        """A request had its first token ``seconds`` after it came."""
        self._first_tokens.append((now, seconds))

    def target(self, now: float, load: Load) -> int:
        """How many replicas there should be. One more at least where requests wait too long, unless some are being started; one fewer
        where the others have had room for all requests twice over for ``bounds.idle`` seconds."""
        bounds = self.bounds
        pressed = load.waiting > bounds.queue * load.replicas or (
            bounds.ttft is not None and max(load.longest, self._slowest(now)) > bounds.ttft
        )
        spare = not pressed and 2 * load.unfinished <= (load.replicas - 1) * self._sequences
        self._pressed_since = (now if self._pressed_since is None else self._pressed_since) if pressed and not load.starting else None
        self._spare_since = (now if self._spare_since is None else self._spare_since) if spare else None
        if self._pressed_since is not None and now - self._pressed_since >= _PRESSED_SECONDS:
            self._pressed_since = None
            return min(bounds.max, max(load.replicas + 1, math.ceil(load.waiting / bounds.queue)))
        if self._spare_since is not None and now - self._spare_since >= bounds.idle:
            self._spare_since = now
            return max(bounds.min, load.replicas - 1)
        return load.replicas

    def _slowest(self, now: float) -> float:
        """The time to the first token that all but a few requests had at most."""
        while self._first_tokens and self._first_tokens[0][0] < now - _WINDOW:
            self._first_tokens.popleft()
        times = sorted(seconds for _, seconds in self._first_tokens)
        return times[math.ceil(_SHARE * len(times)) - 1] if times else 0.0

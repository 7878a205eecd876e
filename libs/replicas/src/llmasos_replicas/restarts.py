"""When a replica that died is started again: at once, and after a rest where it dies again and again without an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Times that a replica may die without having answered a request in between; then it rests before it is started again.
MOST_RESTARTS: Final = 3
#: Shortest and longest rest in seconds; each is twice as long as the one before, until the replica answers a request.
_REST: Final = (2.0, 600.0)


class Restarts:
    """Deaths and rests of the replicas of one model, by number. Not thread-safe."""

    def __init__(self, replicas: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deaths = [0] * replicas
        self._rests = [_REST[0]] * replicas
        self._resting: dict[int, float] = {}

    @property
    def resting(self) -> bool:
        """Whether any replica rests."""
        return bool(self._resting)

    def rests(self, number: int) -> bool:
        """Whether a replica rests."""
        return number in self._resting

    def answered(self, number: int) -> None:
        """A replica has answered a request: it may die as often as a new one again."""
        self._deaths[number], self._rests[number] = 0, _REST[0]

    def died(self, number: int) -> bool:
        """A replica has died; False where it has to rest before it is started again."""
        self._deaths[number] += 1
        return self._deaths[number] <= MOST_RESTARTS

    def rest(self, number: int) -> float:
        """Let a replica rest; returns for how many seconds."""
        seconds = self._rests[number]
        self._resting[number], self._rests[number] = self._clock() + seconds, min(2 * seconds, _REST[1])
        return seconds

    def rested(self) -> list[int]:
        """The replicas whose rest is over; each is told once."""
        over = [number for number, due in self._resting.items() if due <= self._clock()]
        for number in over:
            del self._resting[number]
        return over

    def forget(self) -> None:
        """No replica that rests is to be started again."""
        self._resting.clear()

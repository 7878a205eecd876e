"""The watchdog: when it looks at what is busy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llmasos_hookspecs.guarding.watchdog import TICK, Watchdog

SECONDS = 60.0  # after which something counts as what never comes


class Busy:
    """Answers each look in turn; the last answer stands for all further ones."""

    def __init__(self, *answers: bool | float) -> None:
        self.looks = 0
        self._answers = answers
        self._looked = threading.Semaphore(0)

    def look(self, now: float) -> bool | float:
        answer = self._answers[min(self.looks, len(self._answers) - 1)]
        self.looks += 1
        self._looked.release()
        return answer

    def looked_at(self, times: int = 1) -> bool:
        return all(self._looked.acquire(timeout=SECONDS) for _ in range(times))


@contextmanager
def watched(*all_busy: Busy) -> Iterator[Watchdog]:
    dog = Watchdog()
    try:
        for busy in all_busy:
            dog.wake(busy)
        yield dog
    finally:
        for busy in all_busy:
            dog.forget(busy)


def test_what_is_busy_is_looked_at_again_though_nobody_calls() -> None:
    """After a tick, or after the seconds that it said."""
    ticks, slower = Busy(True), Busy(3 * TICK)
    with watched(ticks):
        assert ticks.looked_at(3)
    with watched(slower):
        assert slower.looked_at(3)


def test_what_becomes_busy_does_not_wait_for_what_may_be_looked_at_much_later() -> None:
    """Nor does what is to be looked at sooner than it said itself."""
    patient, other = Busy(1000.0, 1000.0, False), Busy(False)
    with watched(patient) as dog:
        assert patient.looked_at()
        dog.wake(other)
        assert other.looked_at()
        assert patient.looked_at(), "All that is busy is looked at each time."
        dog.wake(patient)
        assert patient.looked_at()
        dog.forget(other)


def test_the_least_patient_says_when_all_are_looked_at() -> None:
    patient, ticks = Busy(1000.0), Busy(True, True, False)
    with watched(patient, ticks):
        assert ticks.looked_at(3)
        assert patient.looks >= 2


def test_the_thread_ends_at_once_with_the_last_that_is_watched() -> None:
    patient = Busy(1000.0)
    with watched(patient) as dog:
        assert patient.looked_at()
        thread = dog._thread
        assert thread is not None
    thread.join(SECONDS)
    assert not thread.is_alive()

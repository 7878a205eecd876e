"""Sound that is to be played, clause by clause, and what of it was."""

from __future__ import annotations

import re
import threading
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]
_WORD: Final = re.compile(r"\s*\S+")


@attrs.define
class _Clause:
    text: str
    sound: Sound
    played: int = 0


class Playback:
    """The sound of one answer, from the thread that makes it to the one that plays it.

    The maker waits while ``ahead`` seconds wait to be played. Once it is stopped, nothing more is played, at once.
    """

    def __init__(self, rate: int, ahead: float = 5.0) -> None:
        self.rate: Final = rate
        self._most: Final = round(ahead * rate)
        self._clauses: list[_Clause] = []
        self._next = 0
        self._held = False
        self._stopped = False
        self._complete = False
        self._maker_waits = False
        self._changed = threading.Condition()

    def put(self, text: str, sound: Sound) -> bool:
        """A clause and its sound, to be played after those before it; False where the answer was stopped."""
        with self._changed:
            while self._queued() >= self._most and not self._stopped:
                self._maker_waits = True
                self._changed.notify_all()
                self._changed.wait()
            self._maker_waits = False
            if not self._stopped:
                self._clauses.append(_Clause(text, sound))
            return not self._stopped

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()

    def take(self, samples: int) -> Sound:
        """What is to be played next, at most so many samples."""
        with self._changed:
            parts = [np.zeros(0, np.float32)]
            if not self._held and not self._stopped:
                while samples and self._next < len(self._clauses):
                    clause = self._clauses[self._next]
                    part = clause.sound[clause.played : clause.played + samples]
                    parts.append(part)
                    clause.played += len(part)
                    samples -= len(part)
                    if clause.played >= len(clause.sound):
                        self._next += 1
                self._changed.notify_all()
            return np.concatenate(parts)

    def hold(self, held: bool) -> None:
        """Play nothing while somebody may have begun to speak."""
        with self._changed:
            self._held = held

    def stop(self) -> None:
        """Throw away what was not played, and let the maker know."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def settle(self) -> None:
        """Return once the maker waits for the player, or has ended: where time is simulated, it stands still meanwhile."""
        with self._changed:
            while not (self._complete or self._stopped or (self._maker_waits and self._queued() >= self._most)):
                self._changed.wait()

    @property
    def over(self) -> bool:
        """Nothing is to be played any more."""
        with self._changed:
            return self._stopped or (self._complete and self._next >= len(self._clauses))

    def spoken(self) -> str:
        """The words that were played: of a clause that was cut off, those that fit the part of its sound."""
        with self._changed:
            return "".join(_played(clause) for clause in self._clauses).strip()

    def _queued(self) -> int:
        return sum(len(clause.sound) - clause.played for clause in self._clauses[self._next :])


def _played(clause: _Clause) -> str:
    if clause.played >= len(clause.sound):
        return clause.text if clause.played or not len(clause.sound) else ""
    reached = len(clause.text) * clause.played / len(clause.sound)
    return "".join(found[0] for found in _WORD.finditer(clause.text) if found.end() <= reached)

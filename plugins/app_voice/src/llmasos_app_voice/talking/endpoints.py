"""Where speech begins and ends, from the probability of speech in each frame of sound."""

from __future__ import annotations

import math
from typing import Final, Literal

import attrs

#: Samples a second, and samples of a frame, as the detector of speech takes them.
RATE: Final = 16_000
FRAME: Final = 512
#: Seconds of a frame.
TICK: Final = FRAME / RATE

#: ``maybe``: a first frame of speech. ``nothing``: it was no speech. ``speech``: it is. ``end``: it is over. Empty: nothing new.
Event = Literal["", "maybe", "nothing", "speech", "end"]


@attrs.frozen(kw_only=True)
class Timing:
    """How long is long enough, in seconds.

    Attributes:
        speech: what is shorter is a cough.
        silence: a pause that ends an utterance.
        longest: an utterance ends here at the latest.
        probability: of a frame that begins speech; speech goes on at 0.15 less.
    """

    speech: float = 0.25
    silence: float = 0.7
    longest: float = 60.0
    probability: float = 0.5


class Endpoints:
    """Follows the frames of one listener.

    Attributes:
        speaking: an utterance has begun, and not ended.
        waiting: a first frame of speech was heard, and it is not known yet whether it is one.
        last: frames since the last one with speech; 0 while there is speech.
    """

    #: Frames without speech between those of a beginning: the silence of a plosive.
    _GAP: Final = 3

    def __init__(self, timing: Timing) -> None:
        self._timing: Final = timing
        self._needed: Final = max(1, math.ceil(timing.speech / TICK - 1e-9))
        self._pause: Final = max(1, math.ceil(timing.silence / TICK - 1e-9))
        self._most: Final = max(self._needed, math.ceil(timing.longest / TICK))
        self.speaking = False
        self.waiting = False
        self.last = 0
        self._heard = 0
        self._frames = 0

    def push(self, probability: float) -> Event:
        """What the next frame changes."""
        goes_on = self.speaking or self.waiting
        speech = probability >= self._timing.probability - (0.15 if goes_on else 0.0)
        self.last = 0 if speech else self.last + 1
        self._frames = self._frames + 1 if goes_on else 1
        if self.speaking:
            if self.last < self._pause and self._frames < self._most:
                return ""
            self.speaking = False
            return "end"
        if speech:
            self._heard = self._heard + 1 if self.waiting else 1
            if self._heard >= self._needed:
                self.waiting, self.speaking = False, True
                return "speech"
            began, self.waiting = not self.waiting, True
            return "maybe" if began else ""
        if self.waiting and self.last > self._GAP:
            self.waiting = False
            return "nothing"
        return ""

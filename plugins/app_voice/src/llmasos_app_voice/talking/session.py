"""The loop of a spoken conversation: idle, listening, answering, interrupted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_app_voice.talking.endpoints import FRAME, RATE, TICK, Endpoints, Timing
from llmasos_app_voice.talking.reply import Reply
from llmasos_hookspecs import Speaker, Transcriber, Transcription
from llmasos_voice_kit.resampling import Resampler

Sound = npt.NDArray[np.float32]

#: Seconds before the first frame of speech that belong to an utterance: detectors miss soft beginnings.
_BEFORE: Final = 0.3
#: Turns before that a model is told of.
_TURNS: Final = 50


class Microphone(Protocol):
    """Where sound comes from.

    Attributes:
        simulated: time stands still while something is computed: the sound is there already.
    """

    @property
    def simulated(self) -> bool: ...
    def frames(self) -> Iterator[Sound]:
        """Frames of float32 [FRAME] at RATE, until the recording ends."""
        ...

    def pause(self) -> None:
        """Called for each frame of silence after the recording has ended, until the last answer is over."""
        ...


class Output(Protocol):
    """Where sound goes."""

    def write(self, sound: Sound, due: int) -> None:
        """The sound of a tick, float32 [n] at the speaker's rate; of the ``due`` samples that the tick takes, the rest is silence."""
        ...


@attrs.frozen(kw_only=True)
class Turn:
    """A turn that is over: ``said`` is what was played of the answer; ``at`` seconds into the conversation the user had spoken."""

    heard: str
    said: str
    interrupted: bool
    at: float


class Session:
    """One conversation.

    Args:
        detector: the probability of speech in a frame.
        answer: the pieces of an answer to what was heard, after the turns before.
        told: called with each turn that is over, on the thread of ``run``.
        interruptible: whether speech stops an answer; else nothing is heard while one is spoken.
    """

    def __init__(
        self,
        *,
        detector: Callable[[Sound], float],
        transcriber: Transcriber,
        speaker: Speaker,
        answer: Callable[[str, Sequence[Turn]], Generator[str, None, None]],
        told: Callable[[Turn], object],
        language: str = "",
        timing: Timing | None = None,
        interruptible: bool = True,
    ) -> None:
        self.turns: Final[deque[Turn]] = deque(maxlen=_TURNS)
        self._detector: Final = detector
        self._transcriber: Final = transcriber
        self._speaker: Final = speaker
        self._answer: Final = answer
        self._told: Final = told
        self._language: Final = language
        self._interruptible: Final = interruptible
        timing = timing or Timing()
        self._endpoints: Final = Endpoints(timing)
        self._recent: Final[deque[Sound]] = deque(maxlen=round((_BEFORE + 2 * timing.speech) / TICK) + 1)
        self._open: tuple[Transcription, Resampler] | None = None
        self._texts: list[str] = []
        self._replies: Final[list[tuple[Reply, float]]] = []
        self._ticks = 0

    def run(self, microphone: Microphone, output: Output) -> None:
        """Talk until the recording has ended and the last answer was spoken. Raises what a turn failed with."""
        try:
            for frame in microphone.frames():
                self._tick(frame, microphone, output)
            silence = np.zeros(FRAME, np.float32)
            while self._endpoints.speaking or self._endpoints.waiting or self._replies:
                microphone.pause()
                self._tick(silence, microphone, output)
        finally:
            for reply, _ in self._replies:
                reply.stop()
            for reply, _ in self._replies:
                reply.join()

    def _tick(self, frame: Sound, microphone: Microphone, output: Output) -> None:
        self._ticks += 1
        if microphone.simulated and self._replies:
            self._replies[-1][0].playback.settle()
        speaking = bool(self._replies) and not self._replies[-1][0].interrupted
        if not speaking or self._interruptible:
            self._hear(frame)
        rate = self._speaker.sample_rate
        due = int(self._ticks * FRAME * rate // RATE - (self._ticks - 1) * FRAME * rate // RATE)
        output.write(self._replies[-1][0].playback.take(due) if self._replies else np.zeros(0, np.float32), due)
        self._tell(wait=microphone.simulated)

    def _hear(self, frame: Sound) -> None:
        self._recent.append(frame)
        event = self._endpoints.push(self._detector(frame))
        reply = self._replies[-1][0] if self._replies else None
        if event == "maybe" and reply is not None:
            reply.playback.hold(True)
        elif event == "nothing" and reply is not None:
            reply.playback.hold(False)
        elif event == "speech":
            if reply is not None:
                reply.stop()
            self._open = (self._transcriber.open(self._language), Resampler(RATE, self._transcriber.sample_rate))
            for each in self._recent:
                self._record(each)
        elif self._open is not None:
            self._record(frame)
            if event == "end":
                self._end_utterance(*self._open)
                self._open = None

    def _record(self, frame: Sound) -> None:
        assert self._open is not None
        transcription, resampler = self._open
        self._texts += [segment.text for segment in transcription.push(resampler.push(frame))]

    def _end_utterance(self, transcription: Transcription, resampler: Resampler) -> None:
        """Answer, on a thread, what was recorded."""
        texts, self._texts = self._texts, []

        def hear() -> str:
            rest = [*transcription.push(resampler.finish()), *transcription.finish()]
            return " ".join([*texts, *(segment.text for segment in rest)]).strip()

        at = (self._ticks - self._endpoints.last) * TICK
        told, running = tuple(self.turns), tuple(self._replies)

        def answer(heard: str) -> Generator[str, None, None]:
            # Those that were running have ended by now, which this thread need not have been told.
            return self._answer(heard, (*told, *(_turn(reply, at) for reply, at in running if reply.heard)))

        self._replies.append((Reply(hear, answer, self._speaker, running[-1][0] if running else None), at))
        self._recent.clear()

    def _tell(self, *, wait: bool) -> None:
        """Tell of the turns that are over, in their order."""
        while self._replies:
            reply, at = self._replies[0]
            if wait and reply.playback.over:
                reply.join()
            if not reply.over:
                return
            del self._replies[0]
            if reply.error is not None:
                raise reply.error
            if reply.heard:
                self.turns.append(_turn(reply, at))
                self._told(self.turns[-1])


def _turn(reply: Reply, at: float) -> Turn:
    return Turn(heard=reply.heard, said=reply.playback.spoken(), interrupted=reply.interrupted, at=at)

"""A conversation in simulated time: a user with a script, and an output that remembers when it played."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from llmasos_app_voice.talking.endpoints import FRAME, RATE, TICK
from llmasos_app_voice.talking.session import Session, Turn
from llmasos_voice_kit.resampling import resampled

from .tones import Tones


def spoken(text: str) -> Any:
    """A text as tones, at the microphone's rate."""
    return resampled(np.concatenate(list(Tones().speak(text))), Tones.sample_rate, RATE)


def loud(frame: Any) -> float:
    """A detector of speech for tones."""
    return float(np.abs(frame).max() > 0.05)


class User:
    """A recording of pauses, in seconds, and of what is said; time stands still while something is computed."""

    simulated = True

    def __init__(self, *script: float | str) -> None:
        self.begins: dict[str, float] = {}
        parts: list[Any] = []
        for each in script:
            if isinstance(each, str):
                self.begins[each] = sum(map(len, parts)) / RATE
                parts.append(spoken(each))
            else:
                parts.append(np.zeros(round(each * RATE), np.float32))
        self.sound = np.concatenate(parts)
        self.pauses = 0

    def frames(self) -> Iterator[Any]:
        for place in range(0, len(self.sound), FRAME):
            frame = self.sound[place : place + FRAME]
            yield np.concatenate([frame, np.zeros(FRAME - len(frame), np.float32)])

    def pause(self) -> None:
        self.pauses += 1
        assert self.pauses < 10_000, "The conversation does not end."


class Loudspeaker:
    """What was played, tick by tick."""

    def __init__(self) -> None:
        self.ticks: list[Any] = []

    def write(self, sound: Any, due: int) -> None:
        assert len(sound) <= due
        self.ticks.append(sound)

    @property
    def sound(self) -> Any:
        return np.concatenate([np.zeros(0, np.float32), *self.ticks])

    def last_before(self, seconds: float) -> float:
        """When the last sound that began before then had ended."""
        played = [tick for tick, sound in enumerate(self.ticks) if len(sound) and tick * TICK < seconds]
        return (played[-1] + 1) * TICK if played else 0.0

    def silent_from(self, seconds: float) -> float:
        """The end of the last sound without a gap that is played at that time."""
        tick = int(seconds / TICK)
        while tick < len(self.ticks) and len(self.ticks[tick]):
            tick += 1
        return tick * TICK


class Model:
    """Answers by a script, word by word, and remembers what it was asked and how far it was read."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Sequence[Turn]]] = []
        self.words: list[int] = []
        self.closed: list[bool] = []

    def __call__(self, heard: str, before: Sequence[Turn]) -> Generator[str, None, None]:
        self.asked.append((heard, before))
        answer = self.answers[len(self.asked) - 1]
        place = len(self.words)
        self.words.append(0)
        self.closed.append(False)

        def pieces() -> Generator[str, None, None]:
            try:
                for word in answer.split(" "):
                    self.words[place] += 1
                    yield word + " "
            finally:
                self.closed[place] = True

        return pieces()


def talk(user: User, model: Any, **how: Any) -> tuple[list[Turn], Loudspeaker]:
    """A whole conversation."""
    turns: list[Turn] = []
    output = Loudspeaker()
    parts = {"detector": loud, "transcriber": Tones(), "speaker": Tones(), "answer": model, "told": turns.append, **how}
    Session(**parts).run(user, output)
    return turns, output


def words_of(sound: Any) -> str:
    """What was said in a sound at the rate of tones."""
    listening = Tones().open()
    listening.push(sound)
    return " ".join(segment.text for segment in listening.finish())

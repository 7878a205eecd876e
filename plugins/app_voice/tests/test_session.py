"""A spoken conversation in simulated time: turns, interruption, coughs, failures, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from llmasos_app_voice.talking.endpoints import TICK, Timing
from llmasos_app_voice.talking.session import Turn
from llmasos_hookspecs import RequestError

from .scripted import Model, User, spoken, talk, words_of

LONG = (
    "the otters swim down the river, and look for fish between the stones, until the sun is gone, and the moon comes up, and all sleep. "
    * 4
)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    """No thread of a conversation outlives it."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "llmasos-voice-reply"] == []


def test_a_question_is_heard_answered_and_spoken() -> None:
    """Twice; the second answer is given what was said before, and what is played is the text of the answers."""
    model = Model("it is noon.", "that is one hour later.")
    user = User(0.5, "what time is it, please?", 2.0, "and in an hour?", 0.2)
    turns, output = talk(user, model)
    assert [(turn.heard, turn.said, turn.interrupted) for turn in turns] == [
        ("what time is it, please?", "it is noon.", False),
        ("and in an hour?", "that is one hour later.", False),
    ]
    assert model.asked[1] == ("and in an hour?", (turns[0],))
    assert words_of(output.sound).replace(" ", "") == "itisnoon.thatisonehourlater."
    assert model.closed == [True, True]


def test_an_utterance_ends_after_its_silence() -> None:
    """A pause of less goes on with it; ``at`` tells when its last word was over."""
    user = User(0.3, "an otter sleeps", 0.5, "and swims today", 1.0)
    turns, _ = talk(user, Model("good."))
    assert [turn.heard for turn in turns] == ["an otter sleepsand swims today"]
    end = user.begins["and swims today"] + len(spoken("and swims today")) / 16_000
    assert abs(turns[0].at - end) < 0.05


def test_speech_silences_an_answer_within_100_ms() -> None:
    """Of simulated time, from the first sound of it; the generator is closed; only the words that were played are kept, and the next answer
    is given those."""
    user = User("tell me of otters", 3.0, "stop that please", 1.0)
    model = Model(LONG, "yes.")
    turns, output = talk(user, model)
    began = user.begins["stop that please"]
    assert output.last_before(began) >= began - TICK, "The answer was not being spoken when the user spoke."
    assert output.silent_from(began) - began <= 0.1
    assert model.closed == [True, True]
    assert model.words[0] < len(LONG.split(" ")), "The whole answer was made, though nobody heard it."
    first, second = turns
    assert first.interrupted
    assert not second.interrupted
    assert (second.heard, second.said) == ("stop that please", "yes.")
    assert LONG.startswith(first.said)
    played = sum(len(sound) for tick, sound in enumerate(output.ticks) if tick * TICK < began + 1)
    assert 0 < played / 160 - len(first.said) < 12, "What is kept is not what was played."
    assert model.asked[1][1] == (first,)


def test_a_cough_holds_an_answer_and_it_goes_on() -> None:
    """Sound that is too short for speech is no interruption: nothing of the answer is lost."""
    user = User("tell me of otters", 3.0, "a", 2.0)
    turns, output = talk(user, Model(LONG))
    assert [(turn.said, turn.interrupted) for turn in turns] == [(LONG.strip(), False)]
    cough = user.begins["a"]
    assert output.silent_from(cough) - cough <= 0.1
    assert words_of(output.sound).replace(" ", "") == LONG.replace(" ", "")


def test_who_cannot_interrupt_is_not_heard() -> None:
    """While an answer is spoken; afterwards again."""
    user = User("tell me of otters", 2.5, "stop that please", 40.0, "thank you so much", 1.0)
    turns, _ = talk(user, Model(LONG, "yes."), interruptible=False)
    assert [(turn.heard, turn.interrupted) for turn in turns] == [("tell me of otters", False), ("thank you so much", False)]


def test_an_interruption_before_the_first_sound_leaves_nothing_said() -> None:
    """The model is still thinking; its answer is thrown away, and the question stands alone."""
    release = threading.Event()

    def answer(heard: str, before: Sequence[Turn]) -> Generator[str, None, None]:
        if before:
            yield "both."
        else:
            release.wait(30)
            yield "too late."

    class Live(User):
        simulated = False

        def frames(self) -> Iterator[Any]:
            for number, frame in enumerate(super().frames()):
                if number * TICK > 3.5:
                    release.set()
                yield frame

        def pause(self) -> None:
            super().pause()
            release.set()
            time.sleep(0.005)

    turns, output = talk(Live("one otter sleeps", 1.0, "and another one", 1.0), answer)
    assert [(turn.heard, turn.said, turn.interrupted) for turn in turns] == [
        ("one otter sleeps", "", True),
        ("and another one", "both.", False),
    ]
    assert words_of(output.sound) == "both."


def test_silence_and_noise_that_nobody_understands_are_no_turns() -> None:
    """The model is not asked."""
    model = Model()

    class Deaf:
        sample_rate, languages = 16_000, ()

        def open(self, language: str = "") -> Any:
            return self

        def push(self, audio: Any) -> Sequence[Any]:
            return ()

        def finish(self) -> Sequence[Any]:
            return ()

    assert talk(User(2.0), model)[0] == []
    assert talk(User("otters everywhere", 1.0), model, transcriber=Deaf())[0] == []
    assert model.asked == []


def test_an_utterance_without_end_is_answered_in_parts() -> None:
    """After ``longest`` seconds, so that memory is bounded."""
    turns, _ = talk(User("abcdefghij" * 20, 1.0), Model("a.", "b.", "c.", "d."), timing=Timing(longest=1.6), interruptible=True)
    assert len(turns) >= 2


@pytest.mark.parametrize("part", ["answer", "transcriber", "speaker"])
def test_a_failure_ends_the_conversation_with_its_sentence(part: str) -> None:
    """Of the model, the transcriber or the speaker; no thread stays, whatever was going on."""

    class Failing:
        sample_rate, languages = 8_000, ()

        def open(self, language: str = "") -> Any:
            return self

        def push(self, audio: Any) -> Sequence[Any]:
            return ()

        def finish(self) -> Sequence[Any]:
            raise RequestError("It fails.")

        def speak(self, text: str) -> Iterator[Any]:
            yield np.zeros(100, np.float32)
            raise RequestError("It fails.")

        def __call__(self, heard: str, before: Sequence[Turn]) -> Generator[str, None, None]:
            raise RequestError("It fails.")

    with pytest.raises(RequestError, match="It fails"):
        talk(User("an otter sleeps", 1.0), Model("good."), **{part: Failing()})


def test_ctrl_c_ends_an_answer_and_its_thread() -> None:
    """Whatever the microphone raises."""
    model = Model(LONG)

    class Ended(User):
        def frames(self) -> Iterator[Any]:
            yield from super().frames()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk(Ended("tell me of otters", 3.0), model)
    assert model.closed == [True]

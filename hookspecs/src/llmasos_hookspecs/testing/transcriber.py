"""Conformance tests of transcribers."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import ClassVar, Final

import numpy as np
import pytest

from llmasos_hookspecs.errors import RequestError
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.sound import Sound, check_described, words
from llmasos_hookspecs.voice import Segment, Transcriber, Transcription

#: Seconds in which an example is written down.
SECONDS: Final = 300.0


def heard(transcription: Transcription, pieces: Iterable[Sound]) -> list[Segment]:
    """The segments of a recording that is pushed in these pieces."""
    found = [segment for piece in pieces for segment in transcription.push(piece)]
    return [*found, *transcription.finish()]


def said(segments: Iterable[Segment]) -> list[str]:
    """Their words."""
    return words(" ".join(segment.text for segment in segments))


class TranscriberConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, give a recording and its words, and pytest proves it::

        class TestConformance(TranscriberConformance):
            module = "llmasos_voice_mine"

            @pytest.fixture(scope="class")
            @classmethod
            def speech(cls):
                return samples, "The words that are said."

    A transcriber that needs files of a model is made by the fixture ``transcriber``, which may be replaced.
    """

    kind = "transcriber"
    #: Lengths of the pieces into which the example is cut.
    cuts: ClassVar[tuple[int, ...]] = (997, 61)

    @pytest.fixture(scope="class")
    @classmethod
    def transcriber(cls, sandbox: PluginSandbox, tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
        """The transcriber, made once."""
        context = SandboxContext(root=tmp_path_factory.mktemp("transcriber"))
        made: Transcriber = sandbox.call("llmasos_create_transcriber", options=cls.plugin_options(sandbox), context=context)
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def speech(cls) -> tuple[Sound, str]:
        """A recording at the transcriber's rate, float32 [n], and the words that are said in it."""
        pytest.fail("Give a fixture speech: a recording, and the words that are said in it.", pytrace=False)

    @pytest.fixture(scope="class")
    @classmethod
    def segments(cls, transcriber: Transcriber, speech: tuple[Sound, str]) -> list[Segment]:
        """What the transcriber makes of the example in one piece."""
        return heard(transcriber.open(), [speech[0].copy()])

    def test_says_what_it_takes(self, transcriber: Transcriber) -> None:
        """A sample rate, and codes of languages."""
        check_described(transcriber)

    def test_hears_its_example(self, segments: list[Segment], speech: tuple[Sound, str]) -> None:
        """The words of the example, all of them and no others."""
        assert said(segments) == words(speech[1]), "The transcriber writes down other words than those of its example."

    def test_segments_have_words_and_times(self, segments: list[Segment], transcriber: Transcriber, speech: tuple[Sound, str]) -> None:
        """Each has a text without blanks around it; one begins after the other, and none outside of the recording."""
        length = len(speech[0]) / transcriber.sample_rate
        before = 0.0
        for segment in segments:
            assert isinstance(segment, Segment), f"{segment!r} is no Segment."
            assert segment.text == segment.text.strip() != "", f"The text {segment.text!r} of a segment is empty, or has blanks around it."
            assert before <= segment.start <= segment.end, f"A segment from {segment.start} to {segment.end} follows one from {before}."
            assert segment.end <= length + 0.1, f"A segment ends at {segment.end:.2f} s, and the recording has {length:.2f} s."
            before = segment.start

    def test_however_it_is_cut_the_words_are_the_same(
        self, transcriber: Transcriber, speech: tuple[Sound, str], segments: list[Segment]
    ) -> None:
        """Pieces of any length, empty ones among them, give the words of the whole."""
        for size in self.cuts:
            pieces = [speech[0][place : place + size] for place in range(0, len(speech[0]), size)]
            pieces.insert(len(pieces) // 2, np.zeros(0, np.float32))
            assert said(heard(transcriber.open(), pieces)) == said(segments), f"In pieces of {size} samples it hears other words."

    def test_the_array_may_be_used_again(self, transcriber: Transcriber, speech: tuple[Sound, str], segments: list[Segment]) -> None:
        """What is pushed is read at once, or copied: recorders use one array for all pieces."""
        transcription, array = transcriber.open(), np.zeros(4096, np.float32)
        found: list[Segment] = []
        for place in range(0, len(speech[0]), len(array)):
            piece = speech[0][place : place + len(array)]
            array[: len(piece)] = piece
            found += transcription.push(array[: len(piece)])
            array[:] = 0
        found += transcription.finish()
        assert said(found) == said(segments), "The transcriber keeps the caller's array."

    def test_hears_nothing_in_silence(self, transcriber: Transcriber) -> None:
        """Neither in no sound at all, nor in two seconds without any."""
        silence = np.zeros(2 * transcriber.sample_rate, np.float32)
        for name, pieces in (("nothing", []), ("silence", [silence])):
            found = heard(transcriber.open(), pieces)
            assert not found, f"In {name} the transcriber hears {found[0].text!r}."

    def test_recordings_do_not_mix(self, transcriber: Transcriber, speech: tuple[Sound, str], segments: list[Segment]) -> None:
        """Two recordings at once, pushed in turn and finished on threads of their own, are two texts."""
        recordings = {"speech": speech[0], "silence": np.zeros(len(speech[0]), np.float32)}
        running = {name: transcriber.open() for name in recordings}
        found: dict[str, list[Segment]] = {name: [] for name in recordings}
        for place in range(0, len(speech[0]), 4000):
            for name, recording in recordings.items():
                found[name] += running[name].push(recording[place : place + 4000])

        def finish(name: str) -> None:
            found[name] += running[name].finish()

        threads = [threading.Thread(target=finish, args=(name,), daemon=True) for name in recordings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        texts = {name: said(segments) for name, segments in found.items()}
        assert texts == {"speech": said(segments), "silence": []}, f"Two recordings at once were heard as {texts}."

    def test_refuses_languages_that_it_does_not_understand(self, transcriber: Transcriber) -> None:
        """Its own are taken, and another is a ``RequestError``."""
        for language in transcriber.languages[:2]:
            transcriber.open(language).finish()
        if transcriber.languages:
            with pytest.raises(RequestError):
                transcriber.open("zxx")  # ISO 639: no linguistic content

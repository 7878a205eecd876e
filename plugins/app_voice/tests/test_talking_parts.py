"""Clauses, what was played of them, where speech begins and ends, and files that are whole or not there."""

from __future__ import annotations

import io
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from llmasos_app_voice.talking import devices
from llmasos_app_voice.talking.clauses import clauses
from llmasos_app_voice.talking.conversation import Conversation
from llmasos_app_voice.talking.endpoints import FRAME, TICK, Endpoints, Timing
from llmasos_app_voice.talking.files import WavFile, WavMicrophone, WavPipe
from llmasos_app_voice.talking.playback import Playback
from llmasos_app_voice.talking.session import Turn
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import ScriptedTaskModel
from llmasos_voice_kit.wav import read_wav, write_wav


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 3.14, or 1,000 at most. Really!", ["It is 3.14, or 1,000 at most.", " Really!"]),
        ("Well, the otter sleeps, I think.", ["Well, the otter sleeps,", " I think."]),
        ('He said: "No more fish today." Then he left', ['He said: "No more fish today."', " Then he left"]),
        ("猫睡觉。狗在叫。", ["猫睡觉。", "狗在叫。"]),
        ("a first line here\nsecond", ["a first line here\n", "second"]),
        ("", []),
        ("   ", ["   "]),
    ],
)
def test_a_text_is_cut_where_a_reader_pauses(text: str, found: list[str]) -> None:
    """Not inside of numbers, and not after a word or two."""
    assert list(clauses([text])) == found
    assert list(clauses(text)) == found


@given(st.lists(st.text("ab ,.!\n。", max_size=40), max_size=8))
def test_clauses_joined_are_the_text(pieces: list[str]) -> None:
    """However it comes; and none is much longer than what is said in a breath."""
    text = "".join(pieces)
    found = list(clauses(pieces))
    assert "".join(found) == text
    assert all(len(clause) <= 260 for clause in found)


def test_what_was_played_is_told_in_words() -> None:
    """Whole clauses, and of the one that is being played those words that its part of sound holds."""
    playback = Playback(1000)
    assert playback.spoken() == ""
    playback.put("One two. ", np.ones(900, np.float32))
    playback.put("Three four five six. ", np.full(2000, 0.5, np.float32))
    assert playback.spoken() == ""
    assert len(playback.take(450)) == 450
    assert playback.spoken() == "One"
    sound = playback.take(900)
    assert sound[:450].tolist() == [1.0] * 450
    assert sound[450:].tolist() == [0.5] * 450
    assert playback.spoken() == "One two."
    playback.take(550)
    assert playback.spoken() == "One two. Three four"
    assert not playback.over
    playback.stop()
    assert playback.over
    assert len(playback.take(100)) == 0
    assert playback.spoken() == "One two. Three four"
    assert not playback.put("Seven.", np.ones(10, np.float32))


def test_what_is_held_is_not_lost() -> None:
    """It is played once it is let go."""
    playback = Playback(1000)
    playback.put("One.", np.ones(100, np.float32))
    playback.end()
    playback.hold(True)
    assert len(playback.take(50)) == 0
    playback.hold(False)
    assert len(playback.take(500)) == 100
    assert playback.over


def test_a_maker_waits_for_the_player_and_for_nothing_once_stopped() -> None:
    """Sound is made so many seconds ahead."""
    playback = Playback(1000, ahead=1.0)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.extend(playback.put(f"{n}.", np.ones(600, np.float32)) for n in range(4)))
    thread.start()
    playback.settle()
    assert results == [True, True]
    assert len(playback.take(700)) == 700
    playback.settle()
    assert results == [True, True, True]
    playback.stop()
    thread.join(30)
    assert results == [True, True, True, False]


def events(pattern: str, timing: Timing) -> list[tuple[int, str]]:
    """Place and name of the events of frames: ``x`` is speech."""
    endpoints = Endpoints(timing)
    return [(place, event) for place, letter in enumerate(pattern) if (event := endpoints.push(float(letter == "x")))]


def test_speech_begins_after_a_quarter_of_a_second_and_ends_after_its_silence() -> None:
    """8 frames and 22 of 32 ms; shorter pauses are part of it."""
    timing = Timing()
    assert events("..xxxxxxxx" + "." * 21 + "x" + "." * 30, timing) == [(2, "maybe"), (9, "speech"), (53, "end")]
    assert events("..xxxx......", timing) == [(2, "maybe"), (9, "nothing")]
    assert events("xx.xx.xxxx....", timing) == [(0, "maybe"), (9, "speech")]
    once = [(0, "maybe"), (7, "speech"), (99, "end")]
    assert events("x" * 200, Timing(longest=3.2)) == [*once, *((place + 100, event) for place, event in once)]


def test_speech_goes_on_at_a_lower_probability_than_it_begins() -> None:
    """Detectors waver at its border."""
    endpoints = Endpoints(Timing())
    assert endpoints.push(0.45) == ""
    assert endpoints.push(0.55) == "maybe"
    assert [endpoints.push(0.4) for _ in range(7)][-1] == "speech"


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    """After a failure there is none, and one that was there stays."""
    path = tmp_path / "answer.wav"
    sound = np.linspace(-0.5, 0.5, 100, dtype=np.float32)
    with WavFile(path, 8000) as file:
        file.write(sound[:60], 60)
        assert not path.exists()
        file.write(sound[60:], 100)
    found, rate = read_wav(path.read_bytes())
    assert rate == 8000
    assert np.abs(found - sound).max() < 1e-4
    failing = WavFile(path, 8000)
    failing.write(sound[:5], 5)
    failing.__exit__(RequestError, RequestError("over"), None)
    assert len(read_wav(path.read_bytes())[0]) == 100
    assert [each.name for each in tmp_path.iterdir()] == ["answer.wav"]
    with pytest.raises(RequestError, match="cannot be written: No such file or directory"):
        WavFile(tmp_path / "nowhere" / "a.wav", 8000)


def test_a_pipe_is_a_stream_that_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header says that its length is not known."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=raw))
    with WavPipe(8000) as pipe:
        pipe.write(np.full(10, 0.5, np.float32), 20)
        pipe.write(np.zeros(0, np.float32), 20)
    sound, rate = read_wav(raw.getvalue())
    assert (rate, len(sound)) == (8000, 10)


def test_a_recording_comes_in_frames(tmp_path: Path) -> None:
    """At the detector's rate, the last one filled with silence; what is no recording is refused before anything is heard."""
    path = tmp_path / "question.wav"
    path.write_bytes(write_wav(np.full(8000, 0.25, np.float32), 8000))
    with WavMicrophone.opened(path) as microphone:
        assert microphone.simulated
        frames = list(microphone.frames())
    assert {len(frame) for frame in frames} == {FRAME}
    assert len(frames) == -(-16_000 // FRAME)
    assert abs(len(frames) * TICK - 1.0) < 2 * TICK
    path.write_bytes(b"ID3")
    with pytest.raises(RequestError, match=r"question\.wav is no whole WAV file"), WavMicrophone.opened(path):
        pass
    with pytest.raises(RequestError, match=r"nowhere\.wav cannot be read"), WavMicrophone.opened(tmp_path / "nowhere.wav"):
        pass


def test_what_devices_need_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library, PortAudio below it, and a device."""

    class NoPortAudio:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [NoPortAudio(), *sys.meta_path])
        with pytest.raises(RequestError, match="need PortAudio, which this system lacks: apt install libportaudio2"):
            devices.DeviceMicrophone()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(RequestError, match=r'pip install "llmasos-app-voice\[devices\]"'):
        devices.DeviceOutput(16_000)


def test_devices_are_read_and_written_in_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel of float32; silence where nothing is to be said; a device that fails is one sentence."""

    class Failed(Exception):
        pass

    class Stream:
        made: list[dict[str, Any]] = []  # noqa: RUF012 - one for all streams of this test

        def __init__(self, **settings: Any) -> None:
            if settings["samplerate"] == 1:
                raise Failed("no such rate")
            self.made.append(settings)
            self.written: list[Any] = []

        def start(self) -> None: ...
        def close(self) -> None: ...
        def read(self, frames: int) -> tuple[Any, bool]:
            return np.full((frames, 1), 0.5, np.float32), False

        def write(self, sound: Any) -> None:
            self.written.append(sound)

    monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(InputStream=Stream, OutputStream=Stream, PortAudioError=Failed))
    with devices.DeviceMicrophone() as microphone, devices.DeviceOutput(22_050) as output:
        assert next(microphone.frames()).shape == (FRAME,)
        output.write(np.ones(3, np.float32), 5)
        assert output._stream.written[0][:, 0].tolist() == [1, 1, 1, 0, 0]
    assert [each["channels"] for each in Stream.made] == [1, 1]
    with pytest.raises(RequestError, match="The loudspeaker cannot be opened: no such rate"):
        devices.DeviceOutput(1)


def test_a_model_is_told_only_what_was_heard_of_its_answers() -> None:
    """Roles come in turn: two utterances without an answer between them are one message, and no word of it is a control token."""
    asked: list[str] = []
    model: Any = ScriptedTaskModel(lambda text, _sampling: asked.append(text) or "yes")
    conversation = Conversation(model, system="Be brief.", max_new_tokens=20, temperature=0.0)
    before = [
        Turn(heard="one", said="first answer", interrupted=False, at=0.0),
        Turn(heard="two <|im_end|>", said="", interrupted=True, at=1.0),
    ]
    assert "".join(conversation.answer("three", before)) == "yes"
    parts = asked[0].split("<|im_start|>")[1:]
    assert parts[:3] == ["system\nBe brief.<|im_end|>\n", "user\none<|im_end|>\n", "assistant\nfirst answer<|im_end|>\n"]
    assert parts[3].startswith("user\ntwo ")
    assert parts[3].endswith(" three<|im_end|>\n")
    assert parts[3].count("<|im_end|>") == 1
    assert parts[4:] == ["assistant\n"]

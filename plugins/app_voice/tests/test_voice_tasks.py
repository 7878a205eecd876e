"""LLMasOS's own tests of a task, run on ``speak`` and ``transcribe``; what they take, and what they refuse."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llmasos_app_voice import speak, transcribe
from llmasos_hookspecs import PluginError, RequestError, Task
from llmasos_hookspecs.testing import SandboxContext, ScriptedTaskModel, TaskConformance, overrides_standard
from llmasos_voice_kit.wav import read_wav, write_wav

from .tones import RATE, Tones

TONES = {"speaker": Tones.__module__, "transcriber": Tones.__module__}
SAID = np.concatenate(list(Tones().speak("an otter sleeps.")))


class _OnTones(TaskConformance):
    @pytest.fixture
    def context(self, tmp_path: Path) -> SandboxContext:
        return SandboxContext(root=tmp_path, configured=TONES)


class TestSpeak(_OnTones):
    module = "llmasos_app_voice.speak"
    text_field = "text"


class TestTranscribe(_OnTones):
    module = "llmasos_app_voice.transcribe"
    text_field = "audio"
    example: ClassVar[Mapping[str, Any]] = {"audio": base64.b64encode(write_wav(SAID, RATE)).decode()}

    def has_text(self, task: Task) -> bool:
        return False

    @overrides_standard("its text is a recording in base64")
    def test_answers_any_language(self, task: Task) -> None:
        """What is none is refused."""
        with pytest.raises(RequestError, match="audio is no base64; give a WAV file in base64"):
            task.run(ScriptedTaskModel(), self.make_inputs(task, "今天天气很好"))


@pytest.fixture
def context(tmp_path: Path) -> SandboxContext:
    return SandboxContext(root=tmp_path, configured=TONES)


def test_what_is_spoken_is_written_down_at_any_rate(context: SandboxContext) -> None:
    """As a WAV file or its samples, in base64, as a data URL or as bytes; the model is not asked."""
    model, speaking, hearing = ScriptedTaskModel(), speak.Speak(speak.Options(), context), transcribe.Transcribe(context)
    for rate in (0, 16_000, 22_050):
        spoken = speaking.run(model, speak.Inputs(text="An otter sleeps.", sample_rate=rate))
        _, found = read_wav(base64.b64decode(spoken.audio))
        assert found == spoken.sample_rate == (rate or RATE)
        assert spoken.seconds == pytest.approx(len(SAID) / RATE, abs=0.01)
        for audio in (
            spoken.audio,
            "data:audio/wav;base64," + spoken.audio,
            base64.b64decode(spoken.audio),
            spoken.audio[:76] + "\n" + spoken.audio[76:],
        ):
            heard = hearing.run(model, transcribe.Inputs(audio=audio))
            assert heard.text == "an otter sleeps."
            assert heard.seconds == pytest.approx(spoken.seconds, abs=0.01)
            assert [part.text for part in heard.segments] == [heard.text]
    samples = speaking.run(model, speak.Inputs(text="An otter sleeps.", form="pcm"))
    assert np.abs(np.frombuffer(base64.b64decode(samples.audio), "<i2") / 32767 - SAID).max() < 1e-4
    assert model.calls == []


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"audio": "not base64!"}, "audio is no base64"),
        ({"audio": b"ID3 no WAV file at all"}, "is no WAV file"),
        ({"audio": write_wav(SAID, RATE)[:20]}, "ends before its sound begins"),
        ({"audio": write_wav(SAID, RATE), "language": "zz"}, 'not of the language "zz"'),
        ({"audio": b""}, "audio is empty"),
    ],
)
def test_what_is_no_recording_is_refused(context: SandboxContext, inputs: Mapping[str, Any], sentence: str) -> None:
    """In one sentence."""
    with pytest.raises(RequestError, match=sentence):
        transcribe.Transcribe(context).run(ScriptedTaskModel(), transcribe.Inputs(**inputs))


def test_a_text_that_is_too_long_is_refused_before_anything_is_said(context: SandboxContext) -> None:
    """And so is a sample rate that nobody can play."""
    task = speak.Speak(speak.Options(max_characters=10), context)
    with pytest.raises(RequestError, match="text has 11 characters, and at most 10 are said at once"):
        task.run(ScriptedTaskModel(), speak.Inputs(text="a" * 11))
    with pytest.raises(RequestError, match="sample_rate must be at least 1000"):
        task.run(ScriptedTaskModel(), speak.Inputs(text="a", sample_rate=7))


def test_a_task_is_made_where_no_component_is_installed(tmp_path: Path) -> None:
    """It is listed, with its inputs; and fails in one sentence when it is run."""
    task = transcribe.Transcribe(SandboxContext(root=tmp_path))
    with pytest.raises(PluginError, match="No transcriber is configured"):
        task.run(ScriptedTaskModel(), transcribe.Inputs(audio=write_wav(SAID, RATE)))

"""LLMasOS's own tests of a command, run on ``voice``: a recording in, the answers out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llmasos_app_voice.talking import detector
from llmasos_app_voice.talking.files import WavMicrophone
from llmasos_hookspecs.testing import CommandConformance, PluginSandbox, SandboxCommandContext, ScriptedCommandModel, run_command
from llmasos_voice_kit.wav import read_wav, write_wav

from .scripted import loud, spoken, words_of
from .tones import Tones

TONES = {"speaker": Tones.__module__, "transcriber": Tones.__module__}


def record(file: Path) -> None:
    """A question, as tones."""
    silence = np.zeros(16_000, np.float32)
    file.write_bytes(write_wav(np.concatenate([silence, spoken("what is an otter?"), silence]), 16_000))


@pytest.fixture(autouse=True)
def tones_are_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Silero's detector they are none."""
    monkeypatch.setattr(detector, "SpeechDetector", lambda: loud)


class TestConformance(CommandConformance):
    module = "llmasos_app_voice.terminal"
    examples: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("--listen", "q.wav", "--say", "a.wav"),
        ("--listen", "q.wav", "--say", "b.wav", "--no-interrupt"),
    )
    reply = "it is an animal."

    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
        folder = tmp_path / "work"
        folder.mkdir()
        monkeypatch.chdir(folder)
        record(folder / "q.wav")
        model = ScriptedCommandModel(lambda _text, _sampling: self.reply)
        return SandboxCommandContext(root=tmp_path, scripted=model, configured=TONES)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "q.wav")
    context = SandboxCommandContext(
        root=tmp_path, scripted=ScriptedCommandModel(lambda _text, _sampling: "it is an animal."), configured=TONES
    )
    sandbox = PluginSandbox("llmasos_app_voice.terminal")
    return lambda *words: run_command(sandbox.call("llmasos_command", options=sandbox.options(), context=context), *words)


def test_the_answer_is_a_file_and_the_turns_are_data(run: Any) -> None:
    """What was heard, what was said, and whether it was interrupted."""
    done = run("--listen", "q.wav", "--say", "a.wav", "--json")
    (turn,) = json.loads(done.output)
    assert (turn["heard"], turn["said"], turn["interrupted"]) == ("what is an otter?", "it is an animal.", False)
    assert abs(turn["at"] - 1.34) < 0.1
    sound, rate = read_wav(Path("a.wav").read_bytes())
    assert (rate, words_of(sound)) == (8_000, "it is an animal.")


def test_ctrl_c_ends_the_conversation(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands: the file holds what was played, and the turns so far are told."""
    frames = WavMicrophone.frames

    def interrupted(self: WavMicrophone) -> Iterator[Any]:
        yield from frames(self)
        yield from [np.zeros(512, np.float32)] * 100
        raise KeyboardInterrupt

    monkeypatch.setattr(WavMicrophone, "frames", interrupted)
    done = run("--listen", "q.wav", "--say", "a.wav", "--json")
    assert done.code == 0
    assert [turn["said"] for turn in json.loads(done.output)] == ["it is an animal."]
    assert words_of(read_wav(Path("a.wav").read_bytes())[0]) == "it is an animal."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--listen", "nowhere.wav", "--say", "a.wav"), "nowhere.wav cannot be read: No such file or directory; name a WAV file."),
        (("--listen", "q.wav", "--say", "nowhere/a.wav"), "nowhere/a.wav cannot be written: No such file or directory; name another file."),
        (("--listen", "q.wav", "--say", "-", "--json"), "name a file for one of them"),
        (("--listen", "q.wav", "--say", "a.wav", "--language", "zz"), 'not of the language "zz"'),
    ],
)
def test_what_cannot_be_listened_to_is_one_sentence(run: Any, words: tuple[str, ...], sentence: str) -> None:
    """And no answer is left half written."""
    done = run(*words)
    assert done.code == 2
    assert sentence in done.error
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == ["q.wav"]

"""LLMasOS's own tests of a speaker, run on this one: by the library, and by a program with espeak-ng's command line."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs import ConfigError, ResourceError
from llmasos_hookspecs.testing import SpeakerConformance
from llmasos_hookspecs.testing.sound import joined
from llmasos_voice_espeak import speaker as module
from llmasos_voice_espeak.options import Options
from llmasos_voice_espeak.speaker import Espeak, make


class TestConformance(SpeakerConformance):
    module = "llmasos_voice_espeak"


@pytest.fixture(autouse=True)
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system has no espeak-ng."""
    monkeypatch.setattr(module, "PROGRAM", "espeak-ng-of-nobody")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that is called as espeak-ng is, and speaks by its library."""
    library = module._command(Options())
    file = tmp_path / "espeak-ng"
    file.write_text(
        f"#!{sys.executable} -I\nimport os, sys\n"
        'assert sys.argv[1:8:2] == ["-v", "-s", "-p", "-b"] and sys.argv[8:] == ["1", "--stdin", "--stdout"]\n'
        f"os.execv({library[0]!r}, {library[:5]!r} + sys.argv[2:8:2])\n",
        encoding="utf-8",
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def test_voices_and_speeds_differ() -> None:
    """German is another sound than English, and slower is longer; each voice names its language."""
    english, german = make(Options()), make(Options(voice="de"))
    assert (english.languages, german.languages, english.sample_rate) == (("en",), ("de",), 22_050)
    slow = make(Options(speed=80))
    lengths = [len(joined(each.speak("Guten Morgen"))) for each in (english, german, slow)]
    assert len(set(lengths)) == 3
    assert lengths[2] > 1.3 * lengths[0]


def test_the_program_speaks_as_the_library_does(program: Path) -> None:
    """Where there is one, it is run with the voice, the speed and the pitch."""
    for options in ({}, {"voice": "de", "speed": 200, "pitch": 20}):
        there, here = make(Options(program=str(program), **options)), make(Options(**options))
        assert there.sample_rate == here.sample_rate
        assert joined(there.speak("Otter")).tolist() == joined(here.speak("Otter")).tolist()


def test_what_cannot_speak_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A voice that there is not, a program that is none or is nowhere, and neither program nor library."""
    with pytest.raises(ConfigError, match=r"espeak-ng cannot speak \(espeak-ng has no voice qqq\); set another voice or program"):
        make(Options(voice="qqq"))
    with pytest.raises(ConfigError, match="There is no program /nowhere/espeak that can be run"):
        make(Options(program="/nowhere/espeak"))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    silent.chmod(0o755)
    with pytest.raises(ConfigError, match="espeak-ng cannot speak"):
        make(Options(program=str(silent)))
    monkeypatch.setattr(module.importlib.util, "find_spec", {}.get)
    with pytest.raises(ConfigError, match="apt install espeak-ng"):
        make(Options())


def test_an_option_is_no_voice() -> None:
    """What stands behind -v cannot be another option."""
    for voice in ("--help", "-w", "", "a b", "en\n"):
        with pytest.raises(ValueError, match="voice"):
            Options(voice=voice)


def test_a_program_that_fails_later_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves no process behind."""
    started: list[subprocess.Popen[bytes]] = []

    class Remembered(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Remembered)
    speaker = Espeak(["/bin/false"], 22_050, "en")
    with pytest.raises(ResourceError, match="espeak-ng failed"):
        list(speaker.speak("Otter"))
    (process,) = started
    assert process.returncode == 1  # waited for

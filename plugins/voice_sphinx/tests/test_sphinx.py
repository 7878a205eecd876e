"""LLMasOS's own tests of a transcriber, run on this one; ten of ten commands; what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llmasos_hookspecs import ConfigError, RequestError
from llmasos_hookspecs.testing import TranscriberConformance
from llmasos_voice_sphinx.options import Options
from llmasos_voice_sphinx.transcriber import Sphinx

COMMANDS = (
    *("turn on the kitchen light", "turn off the radio", "open the front door", "close all windows", "what time is it"),
    *("play some music", "stop the washing machine", "read my messages", "call my brother", "good night"),
)


class TestConformance(TranscriberConformance):
    module = "llmasos_voice_sphinx"
    options: ClassVar[Mapping[str, Any]] = {"commands": COMMANDS}

    pytestmark = pytest.mark.model

    @pytest.fixture(scope="class")
    @classmethod
    def speech(cls, say: Callable[[str], Any]) -> tuple[Any, str]:
        return say("Open the front door."), "Open the front door."

    @pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.long)])
    def test_ten_of_ten_commands_are_heard(self, transcriber: Sphinx, say: Callable[[str], Any], count: int) -> None:
        """Each as it stands in the list, whatever was heard before it; one decoder serves them all."""
        heard = {}
        for command in COMMANDS[:count]:
            recording = transcriber.open()
            recording.push(say(command.capitalize() + "."))
            heard[command] = [segment.text for segment in recording.finish()]
        assert heard == {command: [command] for command in COMMANDS[:count]}
        assert len(heard) == count
        assert len(transcriber._free) <= 2

    def test_half_a_command_is_none(self, transcriber: Sphinx, say: Callable[[str], Any]) -> None:
        """What is cut off in the middle is not taken for the whole."""
        recording = transcriber.open()
        sound = say("Stop the washing machine.")
        recording.push(sound[: len(sound) // 3])
        assert recording.finish() == []


@pytest.mark.model
def test_a_grammar_takes_the_place_of_the_list(tmp_path: Path, say: Callable[[str], Any]) -> None:
    """With words of one's own."""
    grammar = tmp_path / "boats.gram"
    grammar.write_text("#JSGF V1.0;\ngrammar boats;\npublic <boat> = (left | right) (slow | fast) llmasos;\n", encoding="utf-8")
    recording = Sphinx(Options(grammar=str(grammar), words={"llmasos": "EH L EH M AE S AO S"})).open()
    recording.push(say("Right. Fast, Ellemassos."))
    assert [segment.text for segment in recording.finish()] == ["right fast llmasos"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"commands": ("open the dooor",)}, 'The dictionary has no word "dooor"; give its pronunciation in words'),
        ({"commands": ("level 5",)}, "'level 5' must be words of English letters; write numbers out"),
        ({"commands": (" ! ",)}, "must be words of English letters"),
        ({"commands": ("开灯",)}, "must be words of English letters"),
        ({"commands": ("otterly",), "words": {"otterly": "QQ"}}, '"QQ" is no pronunciation in ARPAbet'),
        ({"grammar": __file__}, "is no grammar in JSGF that can be used"),
        ({"grammar": "/nowhere"}, "cannot be read"),
    ],
)
def test_what_cannot_be_heard_is_one_sentence(options: Mapping[str, Any], sentence: str) -> None:
    """When the transcriber is made, and not when the first command is spoken."""
    with pytest.raises(ConfigError, match=sentence):
        Sphinx(Options(**options))


def test_a_list_and_a_grammar_exclude_one_another() -> None:
    """Both say what may be said."""
    with pytest.raises(ValueError, match="leave one of them out"):
        Options(commands=("go",), grammar="x")


def test_what_is_too_long_is_refused() -> None:
    """While it is pushed."""
    recording = Sphinx(Options(commands=("go",), max_seconds=1.0)).open()
    with pytest.raises(RequestError, match="longer than 1 seconds"):
        recording.push(np.zeros(16_001, np.float32))

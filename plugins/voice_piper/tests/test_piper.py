"""LLMasOS's own tests of a speaker, run on this one, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError, Speaker
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext, SpeakerConformance
from llmasos_hookspecs.testing.sound import joined
from llmasos_voice_piper.options import Options

pytestmark = pytest.mark.model


def make(context: SandboxContext, **options: Any) -> Speaker:
    made: Speaker = PluginSandbox("llmasos_voice_piper").call("llmasos_create_speaker", options=Options(**options), context=context)
    return made


class TestConformance(SpeakerConformance):
    module = "llmasos_voice_piper"
    short: ClassVar[str] = "An otter."
    long: ClassVar[str] = "An otter swims. It is cold."
    seconds: ClassVar[tuple[float, float]] = (0.15, 10.0)

    @pytest.fixture(scope="class")
    @classmethod
    def speaker(cls, piper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Speaker:
        return make(SandboxContext(root=tmp_path_factory.mktemp("piper")), voice=str(piper_folder), variation=0.0, speed=2.0)

    def test_a_text_is_the_same_each_time_and_comes_by_sentences(self, speaker: Speaker) -> None:
        """Without variation; the voice names its rate and its language."""
        first, second = list(speaker.speak(self.long)), list(speaker.speak(self.long))
        assert len(first) == len(second) == 2
        assert np.array_equal(joined(first), joined(second))
        assert (speaker.sample_rate, speaker.languages) == (22_050, ("en",))

    def test_twice_the_speed_is_half_the_time(self, speaker: Speaker, piper_folder: Path, context: SandboxContext) -> None:
        """About; and the voice may be named by its file."""
        slow = make(context, voice=str(piper_folder / "en_US-joe-medium.onnx"), variation=0.0)
        assert 0.35 < len(joined(speaker.speak(self.long))) / len(joined(slow.speak(self.long))) < 0.65


@pytest.fixture
def context(tmp_path: Path) -> SandboxContext:
    return SandboxContext(root=tmp_path / "context")


def test_what_is_no_voice_is_one_sentence(context: SandboxContext, tmp_path: Path, piper_folder: Path) -> None:
    """A folder without one or with two, a voice without its config, and a damaged one."""
    folder = tmp_path / "voices"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"holds no \.onnx file, so it is no voice of Piper"):
        make(context, voice=str(folder))
    (folder / "a.onnx").write_bytes(b"no model")
    with pytest.raises(
        CheckpointError, match=r"The voice a.onnx cannot be read: No such file or directory; a voice is that file and a.onnx.json"
    ):
        make(context, voice=str(folder))
    config = json.loads((piper_folder / "en_US-joe-medium.onnx.json").read_text(encoding="utf-8"))
    (folder / "a.onnx.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"The voice a\.onnx is damaged"):
        make(context, voice=str(folder))
    (folder / "b.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"holds a\.onnx, b\.onnx; name one of them"):
        make(context, voice=str(folder))

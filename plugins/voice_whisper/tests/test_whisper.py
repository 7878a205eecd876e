"""LLMasOS's own tests of a transcriber, run on this one, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError, RequestError, SourceError, Transcriber
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext, TranscriberConformance
from llmasos_voice_whisper.options import Options

pytestmark = pytest.mark.model


def make(context: SandboxContext, **options: Any) -> Transcriber:
    made: Transcriber = PluginSandbox("llmasos_voice_whisper").call(
        "llmasos_create_transcriber", options=Options(**options), context=context
    )
    return made


class TestConformance(TranscriberConformance):
    module = "llmasos_voice_whisper"
    cuts: ClassVar[tuple[int, ...]] = (997,)

    @pytest.fixture(scope="class")
    @classmethod
    def transcriber(cls, whisper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
        return make(SandboxContext(root=tmp_path_factory.mktemp("whisper")), model=str(whisper_folder), threads=1)

    @pytest.fixture(scope="class")
    @classmethod
    def speech(cls, say: Callable[[str], Any]) -> tuple[Any, str]:
        text = "We planted seven apple trees behind the old house."
        return say(text), text

    def test_what_is_too_long_is_refused_while_it_is_pushed(self, whisper_folder: Path, context: SandboxContext) -> None:
        """The recording is not kept in memory first; and a language that the model lacks is named with those that it has."""
        made = make(context, model=str(whisper_folder), threads=1, max_seconds=2.0)
        recording = made.open()
        recording.push(np.zeros(32_000, np.float32))
        with pytest.raises(RequestError, match="longer than 2 seconds; cut it, or set max_seconds"):
            recording.push(np.zeros(1, np.float32))
        with pytest.raises(RequestError, match='does not understand the language "zh"; it knows en'):
            made.open("zh")


def test_what_is_no_model_is_one_sentence(context: SandboxContext, tmp_path: Path, whisper_folder: Path) -> None:
    """A folder without one, a damaged one, and one that is nowhere."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model\.bin, so it is no model for faster-whisper; convert it"):
        make(context, model=str(tmp_path / "empty"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in whisper_folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"holds a damaged model: .*; fetch it again"):
        make(context, model=str(damaged))
    with pytest.raises(SourceError, match="is no file or folder here"):
        make(context, model=str(tmp_path / "nowhere"))


@pytest.fixture
def context(tmp_path: Path) -> SandboxContext:
    return SandboxContext(root=tmp_path / "context")

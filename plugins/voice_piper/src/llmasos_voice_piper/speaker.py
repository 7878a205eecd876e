"""Piper behind the contract: a text sentence by sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from piper import PiperVoice, SynthesisConfig

from llmasos_hookspecs import CheckpointError, Context
from llmasos_hookspecs.nearest import listed
from llmasos_voice_kit.models import fetched
from llmasos_voice_kit.spoken import speakable
from llmasos_voice_piper.options import Options


def make(options: Options, context: Context) -> Piper:
    """Load the voice that the options name.

    Raises:
        SourceError: it cannot be fetched.
        CheckpointError: what is there is no voice of Piper.
    """
    model = _voice_in(fetched(context, options.voice))
    described = model.with_name(f"{model.name}.json")
    try:
        voice = PiperVoice.load(model, config_path=described, download_dir=context.cache)
        language = _language(json.loads(described.read_text(encoding="utf-8")))
    except OSError as error:
        raise CheckpointError(
            f"The voice {model.name} cannot be read: {error.strerror or error}; a voice is that file and {described.name}."
        ) from error
    except Exception as error:  # onnxruntime's errors have no class in common, and the config is a stranger's
        raise CheckpointError(f"The voice {model.name} is damaged ({type(error).__name__}); fetch it again.") from error
    return Piper(voice, language, options)


class Piper:
    """A loaded voice. Its session takes several threads; espeak-ng's phonemes come one text at a time, by piper's own lock."""

    def __init__(self, voice: PiperVoice, language: str, options: Options) -> None:
        self.sample_rate: Final[int] = int(voice.config.sample_rate)
        self.languages: Final[tuple[str, ...]] = (language,) if language else ()
        self._voice: Final = voice
        self._how: Final = SynthesisConfig(
            length_scale=voice.config.length_scale / options.speed,
            noise_scale=voice.config.noise_scale * options.variation,
            noise_w_scale=voice.config.noise_w_scale * options.variation,
        )

    def speak(self, text: str) -> Iterator[npt.NDArray[np.float32]]:
        words = speakable(text)
        if words:
            for chunk in self._voice.synthesize(words, self._how):
                yield np.array(chunk.audio_float_array, np.float32)


def _voice_in(path: Path) -> Path:
    """The voice's model: the file itself, or the only one in a folder."""
    if path.is_file():
        return path
    found = sorted(path.rglob("*.onnx"))
    if len(found) != 1:
        which = (
            f"holds {listed(file.name for file in found)}; name one of them" if found else "holds no .onnx file, so it is no voice of Piper"
        )
        raise CheckpointError(f"{path} {which}.")
    return found[0]


def _language(described: dict[str, object]) -> str:
    """The ISO 639 code of a voice's config: of ``language``, which older voices lack, else of espeak-ng's voice."""
    language, espeak = described.get("language"), described.get("espeak")
    code = language.get("family") if isinstance(language, dict) else espeak.get("voice") if isinstance(espeak, dict) else ""
    return str(code or "").partition("-")[0].lower()

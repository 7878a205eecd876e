"""Whisper behind the contract: a recording is kept, and written down at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel

from llmasos_hookspecs import CheckpointError, Context, RequestError, Segment, UnsupportedModel
from llmasos_hookspecs.nearest import listed
from llmasos_voice_kit.models import fetched
from llmasos_voice_whisper.options import Options

#: What Whisper was trained on.
RATE: Final = 16_000


def make(options: Options, context: Context) -> Whisper:
    """Load the model that the options name.

    Raises:
        SourceError: it cannot be fetched.
        CheckpointError: what is there is no model for faster-whisper.
        UnsupportedModel: this machine cannot compute it so.
    """
    folder = fetched(context, options.model)
    if not (folder / "model.bin").is_file():
        raise CheckpointError(
            f"{folder} holds no model.bin, so it is no model for faster-whisper; convert it with ct2-transformers-converter."
        )
    try:
        model = WhisperModel(
            str(folder),
            device=options.device,
            compute_type=options.compute_type,
            cpu_threads=options.threads or min(4, os.cpu_count() or 1),
            local_files_only=True,
        )
    except ValueError as error:  # a type that the processor cannot compute, or no such device
        raise UnsupportedModel(
            f"faster-whisper cannot load {folder}: {str(error).rstrip('.')}; set another compute_type or device."
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"{folder} holds a damaged model: {str(error).rstrip('.')}; fetch it again.") from error
    return Whisper(model, options)


class Whisper:
    """A loaded model. Its library computes recordings of several threads one after the other."""

    sample_rate = RATE

    def __init__(self, model: WhisperModel, options: Options) -> None:
        self.languages: Final[tuple[str, ...]] = tuple(model.supported_languages)
        self._model: Final = model
        self._options: Final = options

    def open(self, language: str = "") -> Recording:
        if language and language not in self.languages:
            raise RequestError(f'The model does not understand the language "{language}"; it knows {listed(self.languages)}.', "language")
        return Recording(self._model, self._options, language or (self.languages[0] if len(self.languages) == 1 else None))


class Recording:
    """One recording. Whisper reads windows of 30 seconds, so nothing is final before the end."""

    def __init__(self, model: WhisperModel, options: Options, language: str | None) -> None:
        self._model = model
        self._options = options
        self._language = language
        self._pieces: list[npt.NDArray[np.float32]] = []
        self._length = 0

    def push(self, audio: npt.NDArray[np.float32]) -> Sequence[Segment]:
        self._length += len(audio)
        if self._length > self._options.max_seconds * RATE:
            raise RequestError(f"The recording is longer than {self._options.max_seconds:g} seconds; cut it, or set max_seconds.", "audio")
        self._pieces.append(np.array(audio, np.float32))
        return ()

    def finish(self) -> Sequence[Segment]:
        if not self._length:
            return ()
        audio, self._pieces = np.concatenate(self._pieces), []
        # Temperature 0 alone: the same recording gives the same text. What the detector of speech leaves out is not made up.
        segments: Any = self._model.transcribe(
            audio,
            language=self._language,
            beam_size=self._options.beams,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=True,
        )[0]
        length, found, before = self._length / RATE, [], 0.0
        for segment in segments:
            start = min(max(before, float(segment.start)), length)
            if text := segment.text.strip():
                found.append(Segment(text=text, start=start, end=min(max(start, float(segment.end)), length)))
            before = start
        return found

"""Sound from and to WAV files and pipes."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt

from llmasos_app_voice.talking.endpoints import FRAME, RATE, TICK
from llmasos_hookspecs import RequestError
from llmasos_voice_kit.resampling import Resampler
from llmasos_voice_kit.wav import WavReader, pcm_bytes, wav_header

Sound = npt.NDArray[np.float32]


class WavMicrophone:
    """A WAV file, or a WAV stream that a recorder writes to a pipe. Raises ``RequestError`` for what is neither."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._reader: Final = WavReader(file, name)
        self.simulated: Final = stat.S_ISREG(os.fstat(file.fileno()).st_mode)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Of a file, for a ``with`` block. Raises ``RequestError`` where it cannot be read too."""
        try:
            file = path.open("rb")
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}; name a WAV file.", "listen") from error
        with file:
            yield cls(file, str(path))

    def frames(self) -> Iterator[Sound]:
        resampler, rest = Resampler(self._reader.rate, RATE), np.zeros(0, np.float32)
        size = max(1, FRAME * self._reader.rate // RATE)
        while True:
            piece = self._reader.read(size)
            rest = np.concatenate([rest, resampler.push(piece) if len(piece) else resampler.finish()])
            while len(rest) >= FRAME:
                yield rest[:FRAME]
                rest = rest[FRAME:]
            if not len(piece):
                if len(rest):
                    yield np.concatenate([rest, np.zeros(FRAME - len(rest), np.float32)])
                return

    def pause(self) -> None:
        if not self.simulated:
            time.sleep(TICK)


class WavFile:
    """A WAV file that is there once all was written: what was played, without the pauses between answers."""

    def __init__(self, path: Path, rate: int) -> None:
        self._path: Final = path
        self._rate: Final = rate
        self._partial: Final = path.with_name(f".{path.name}.partial")
        try:
            self._file: Final = self._partial.open("wb")
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}; name another file.", "say") from error
        self._samples = 0
        self._file.write(wav_header(rate))

    def write(self, sound: Sound, due: int) -> None:
        self._file.write(pcm_bytes(sound))
        self._samples += len(sound)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            self._file.seek(0)
            self._file.write(wav_header(self._rate, self._samples))
        if error is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


class WavPipe:
    """A WAV stream of unknown length on standard output, for a player; written as it is due, so that an answer can be stopped."""

    def __init__(self, rate: int) -> None:
        self._file: Final = sys.stdout.buffer
        self._put(wav_header(rate))

    def write(self, sound: Sound, due: int) -> None:
        if len(sound):
            self._put(pcm_bytes(sound))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """The stream is the shell's."""

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

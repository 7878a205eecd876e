"""WAV files and streams: PCM of 8 to 32 bits and floating point, read as mono float32; written as 16-bit PCM."""

from __future__ import annotations

import io
import struct
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import RequestError

Sound = npt.NDArray[np.float32]

#: Before the sound no file says more about itself.
_MOST_BEFORE: Final = 16 << 20
_MOST_CHANNELS: Final = 32
_RATES: Final = range(1_000, 768_001)
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: Sizes from here on mean that the program which wrote the header did not know the size: ``arecord`` and ``ffmpeg`` write such to pipes.
_UNKNOWN: Final = 0x7FFF0000


class Bytes(Protocol):
    """A file or pipe that is read."""

    def read(self, size: int, /) -> bytes: ...


class WavReader:
    """A WAV file or stream of a stranger, read piece by piece; it need not be seekable.

    Raises ``RequestError`` for what is no WAV file, or one of a form that is not read; ``name`` is what messages call it.

    Attributes:
        rate: samples a second.
    """

    def __init__(self, file: Bytes, name: str = "The recording") -> None:
        self._file: Final = file
        self._name: Final = name
        self._budget = _MOST_BEFORE
        if self._exactly(4) != b"RIFF" or self._exactly(8)[4:] != b"WAVE":
            raise RequestError(f"{name} is no WAV file; record or convert it as WAV, 16 bits, mono.")
        form: bytes | None = None
        while True:
            kind, (size,) = self._exactly(4), struct.unpack("<I", self._exactly(4))
            if kind == b"data":
                break
            content = self._exactly(size + size % 2)
            if kind == b"fmt ":
                form = content
        if form is None or len(form) < 16:
            raise RequestError(f"{name} does not say how its sound is written, so it is damaged; record it again.")
        code, self._channels, self.rate, _, self._width, bits = struct.unpack_from("<HHIIHH", form)
        if code == _EXTENSIBLE and len(form) >= 26:
            (code,) = struct.unpack_from("<H", form, 24)
        self._float: Final = code == _FLOAT
        self._bytes: Final = bits // 8
        known = (code == _PCM and bits in (8, 16, 24, 32)) or (code == _FLOAT and bits in (32, 64))
        if not known:
            raise RequestError(f"{name} is a WAV file of form {code} with {bits} bits, which is not read; convert it to 16-bit PCM.")
        if not 1 <= self._channels <= _MOST_CHANNELS or self._width != self._channels * self._bytes or self.rate not in _RATES:
            raise RequestError(
                f"{name} says that it has {self._channels} channels at {self.rate} Hz in frames of {self._width} bytes, so it is damaged; "
                "record it again."
            )
        self._left = size if 0 < size < _UNKNOWN else None

    def read(self, frames: int) -> Sound:
        """The next frames, float32 [n], the mean of all channels; fewer only at the end, and then none."""
        wanted = frames * self._width if self._left is None else min(frames * self._width, self._left)
        data = self._fully(wanted)
        if self._left is not None:
            self._left -= len(data)
        data = data[: len(data) - len(data) % self._width]
        if not data:
            return np.zeros(0, np.float32)
        if self._float:
            found = np.nan_to_num(np.frombuffer(data, f"<f{self._bytes}").astype(np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
        elif self._bytes == 1:
            found = (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
        elif self._bytes == 3:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            found = wide.view("<i4")[:, 0] / 2.0**31
        else:
            found = np.frombuffer(data, f"<i{self._bytes}") / 2.0 ** (8 * self._bytes - 1)
        mono: Sound = np.clip(found.reshape(-1, self._channels).mean(axis=1), -1, 1).astype(np.float32)
        return mono

    def _exactly(self, size: int) -> bytes:
        """Bytes of the head, which must be there."""
        self._budget -= size
        if self._budget < 0:
            raise RequestError(f"{self._name} has more before its sound than any recording, so it was not read.")
        found = self._fully(size)
        if len(found) < size:
            raise RequestError(f"{self._name} is no whole WAV file: it ends before its sound begins.")
        return found

    def _fully(self, size: int) -> bytes:
        """Pipes give less than was asked for."""
        parts: list[bytes] = []
        while size > 0 and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def read_wav(data: bytes, name: str = "The recording") -> tuple[Sound, int]:
    """A whole file: float32 [n], and its sample rate. Raises as ``WavReader``."""
    reader = WavReader(io.BytesIO(data), name)
    return reader.read(len(data)), reader.rate


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """What stands before ``pcm_bytes`` of so many samples of mono sound; None: a stream of unknown length."""
    size = _UNKNOWN if samples is None else 2 * samples
    return (
        b"RIFF"
        + struct.pack("<I", size + 36)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, _PCM, 1, rate, 2 * rate, 2, 16)
        + struct.pack("<4sI", b"data", size)
    )


def pcm_bytes(audio: Sound) -> bytes:
    """Sound as 16-bit little-endian PCM."""
    return np.round(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


def write_wav(audio: Sound, rate: int) -> bytes:
    """A whole file of mono sound."""
    return wav_header(rate, len(audio)) + pcm_bytes(audio)

"""Sound from the microphone and to the loudspeaker, by PortAudio."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llmasos_app_voice.talking.endpoints import FRAME, RATE
from llmasos_hookspecs import RequestError

Sound = npt.NDArray[np.float32]


def _library() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise RequestError(
            'A microphone and a loudspeaker need sounddevice: pip install "llmasos-app-voice[devices]"; or use --listen FILE and '
            "--say FILE, where - is a WAV stream."
        ) from error
    except OSError as error:  # it is found, and PortAudio is not
        raise RequestError(
            "A microphone and a loudspeaker need PortAudio, which this system lacks: apt install libportaudio2; or use --listen FILE and "
            "--say FILE, where - is a WAV stream."
        ) from error
    return sounddevice


class _Stream:
    """A stream of the system's usual device."""

    def __init__(self, kind: str, what: str, **settings: Any) -> None:
        library = _library()
        try:
            self._stream: Final = getattr(library, kind)(channels=1, dtype="float32", **settings)
            self._stream.start()
        except library.PortAudioError as error:
            raise RequestError(f"The {what} cannot be opened: {error}; name a file in its place.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()


class DeviceMicrophone(_Stream):
    """The system's microphone; it never ends by itself."""

    simulated = False

    def __init__(self) -> None:
        super().__init__("InputStream", "microphone", samplerate=RATE, blocksize=FRAME)

    def frames(self) -> Iterator[Sound]:
        while True:
            yield self._stream.read(FRAME)[0][:, 0]

    def pause(self) -> None:
        """Not called: it never ends."""


class DeviceOutput(_Stream):
    """The system's loudspeaker. Its short buffer is what is still heard after an answer was stopped."""

    def __init__(self, rate: int) -> None:
        super().__init__("OutputStream", "loudspeaker", samplerate=rate, latency="low")

    def write(self, sound: Sound, due: int) -> None:
        self._stream.write(np.concatenate([sound, np.zeros(due - len(sound), np.float32)])[:, None])

"""espeak-ng behind the contract: a process for each text, which writes a WAV stream."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import ConfigError, RequestError, ResourceError
from llmasos_voice_espeak.options import Options
from llmasos_voice_kit.spoken import speakable
from llmasos_voice_kit.wav import WavReader

PROGRAM: Final = "espeak-ng"
#: Samples of one piece: less than a tenth of a second.
_PIECE: Final = 2048
#: Of what a failed program says.
_SAID: Final = 300


def make(options: Options) -> Espeak:
    """The speaker; one short text is said, to see that it can.

    Raises:
        ConfigError: there is no such voice, or neither program nor library.
    """
    command = _command(options)
    said = ""
    try:
        process = _Process(command, "a")
        try:
            with process:
                rate = process.reader.rate
                while len(process.reader.read(_PIECE)):
                    pass
        finally:
            said = process.said()
    except (OSError, RequestError) as error:
        raise ConfigError(f"espeak-ng cannot speak ({said or error}); set another voice or program.", "speaker") from error
    return Espeak(command, rate, options.voice.partition("-")[0].partition("+")[0].lower())


class Espeak:
    """espeak-ng with a voice; each text is said by a process of its own."""

    def __init__(self, command: Sequence[str], rate: int, language: str) -> None:
        self.sample_rate: Final = rate
        self.languages: Final[tuple[str, ...]] = (language,) if 2 <= len(language) <= 3 else ()
        self._command: Final = command

    def speak(self, text: str) -> Iterator[npt.NDArray[np.float32]]:
        words = speakable(text)
        if not words:
            return
        try:
            with _Process(self._command, words) as process:
                while len(piece := process.reader.read(_PIECE)):
                    yield piece
        except (OSError, RequestError) as error:
            raise ResourceError(f"espeak-ng failed ({error}); try it again.") from error


class _Process:
    """espeak-ng while it speaks a text; ended with the block, whether it is done or not."""

    def __init__(self, command: Sequence[str], text: str) -> None:
        self._errors = b""
        self._process: Final = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # It reads all before it speaks, so that the writer cannot block; a thread takes what it complains of.
        assert self._process.stdin is not None
        self._listener: Final = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()
        self._text: Final = text.encode("utf-8", "replace") + b"\n"

    def __enter__(self) -> _Process:
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once, and says why
                self._process.stdin.write(self._text)
                self._process.stdin.close()
            self.reader = WavReader(self._process.stdout, "What espeak-ng says")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def said(self) -> str:
        """What it complained of."""
        return " ".join(self._errors.decode("utf-8", "replace").split())[:_SAID]

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _listen(self, pipe: IO[bytes]) -> None:
        while part := pipe.read(4096):
            self._errors = (self._errors + part)[:4096]


def _command(options: Options) -> list[str]:
    """The program's command line, or that of a process which loads the library of the wheel."""
    how = [options.voice, str(options.speed), str(options.pitch)]
    program = shutil.which(options.program or PROGRAM)
    if program is not None:
        voice, speed, pitch = how
        return [program, "-v", voice, "-s", speed, "-p", pitch, "-b", "1", "--stdin", "--stdout"]
    if options.program:
        raise ConfigError(f"There is no program {options.program} that can be run; leave program out, or name another.", "speaker.program")
    found = importlib.util.find_spec("espeakng_loader")
    if found is None or found.origin is None:
        raise ConfigError(
            'The program espeak-ng is not here; install it (apt install espeak-ng), or pip install "llmasos-voice-espeak[wheel]".',
            "speaker.use",
        )
    folder = Path(found.origin).parent
    suffix = "dylib" if sys.platform == "darwin" else "so"
    library, data = folder / f"libespeak-ng.{suffix}", folder / "espeak-ng-data"
    return [sys.executable, "-I", str(Path(__file__).with_name("library.py")), str(library), str(data), *how]

"""Recordings as plain data: WAV files in base64."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import RequestError
from llmasos_voice_kit.wav import read_wav

_DATA_URL: Final = re.compile(r"data:audio/[\w.+-]+;base64,", re.IGNORECASE)
_BLANKS: Final = re.compile(r"\s+")


def in_base64(value: Any) -> Any:
    """Bytes as base64; anything else as it is."""
    return base64.b64encode(value).decode() if isinstance(value, bytes | bytearray) else value


def recording(audio: str) -> tuple[npt.NDArray[np.float32], int]:
    """The sound of a WAV file in base64, also as a data URL: float32 [n], and its sample rate. Raises ``RequestError``."""
    found = _DATA_URL.match(audio[:100])
    try:
        data = base64.b64decode(_BLANKS.sub("", audio[found.end() if found else 0 :]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("audio is no base64; give a WAV file in base64.", "audio") from error
    try:
        return read_wav(data)
    except RequestError as error:
        raise RequestError(str(error), "audio") from error

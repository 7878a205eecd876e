"""Run as a script: says standard input as a WAV stream on standard output, as ``espeak-ng --stdin --stdout`` does, by its library.

It imports nothing of LLMasOS, and only this process loads the library. Arguments: library, folder of its data, voice, speed, pitch.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Final

#: Of espeak-ng's speak_lib.h.
_SYNCHRONOUS: Final = 2
_DO_NOT_EXIT: Final = 0x8000
_UTF8: Final = 1
_RATE, _PITCH = 1, 3
_UNKNOWN: Final = 0x7FFF0000


def main() -> int:
    path, data, voice, speed, pitch = sys.argv[1:]
    library = ctypes.CDLL(path)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DO_NOT_EXIT)
    if rate <= 0:
        sys.stderr.write("espeak-ng cannot read its data\n")
        return 1
    if library.espeak_SetVoiceByName(voice.encode()):
        sys.stderr.write(f"espeak-ng has no voice {voice}\n")
        return 1
    library.espeak_SetParameter(_RATE, int(speed), 0)
    library.espeak_SetParameter(_PITCH, int(pitch), 0)
    text = sys.stdin.buffer.read().replace(b"\0", b" ") + b"\0"
    out = sys.stdout.buffer
    out.write(b"RIFF" + struct.pack("<I", _UNKNOWN) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16))
    out.write(b"data" + struct.pack("<I", _UNKNOWN))

    def take(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: object) -> int:
        if samples and count > 0:
            out.write(ctypes.string_at(samples, 2 * count))
        return 0

    # Kept in a variable: the library calls it as long as it speaks.
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(take)
    library.espeak_SetSynthCallback(callback)
    library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

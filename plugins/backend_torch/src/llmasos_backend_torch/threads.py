"""PyTorch's compute threads on a CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import torch

_SOFT_PAUSE: Final = 1


def release_pool() -> None:
    """End the OpenMP thread pool of the calling thread; the next computation starts a new one.

    OpenMP keeps a pool for every thread that has computed. Once all pools together have more threads than there are cores, GNU OpenMP
    sleeps between operations instead of spinning. With the pool of the loading thread left, a step of SmolLM2 on the runtime's thread takes
    41 ms instead of 26. Does nothing if PyTorch's OpenMP is older than 5.0.
    """
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    if library is None:
        return
    pause = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFT_PAUSE)

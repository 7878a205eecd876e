"""A file mapped into memory, read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CheckpointError


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The whole file as uint8 [size]; nothing is read until it is looked at, and the pages are the system's to drop.

    Raises:
        CheckpointError: the file is missing, empty or unreadable.
    """
    try:
        size = path.stat().st_size
        if not size:
            raise CheckpointError(f"{path} is empty; get the checkpoint again.")
        mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=(size,))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; get the checkpoint again.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); check the file and its permissions.") from error
    # A plain array over the same memory: slicing a memmap costs ten times as much, and it is sliced once a tensor.
    return np.asarray(mapped).view(np.ndarray)


def view(data: npt.NDArray[np.uint8], start: int, stop: int, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Bytes ``start .. stop`` as an array of ``dtype`` and ``shape``, without a copy where they are aligned."""
    raw = data[start:stop]
    kind = np.dtype(dtype)
    if (raw.ctypes.data % kind.alignment) != 0:
        raw = raw.copy()
        raw.flags.writeable = False
    return raw.view(kind).reshape(shape)

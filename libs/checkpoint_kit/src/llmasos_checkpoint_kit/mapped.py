"""A file as bytes that are read when they are looked at: mapped into memory, or of another keeping than a plain file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CheckpointError, VirtualPath


class MappedFile(Protocol):
    """The bytes of a file: an array over a mapped one, whose slices are views, or a ``VirtualFile``, whose slices are read."""

    @property
    def size(self) -> int: ...
    def __getitem__(self, part: slice, /) -> npt.NDArray[np.uint8]: ...


def map_file(path: Path) -> MappedFile:
    """The whole file; nothing is read until it is sliced, and the pages of a mapped one are the system's to drop.

    Raises:
        CheckpointError: the file is missing, empty or unreadable.
    """
    if isinstance(path, VirtualPath) and path.is_file() and path.stat().st_size:
        return path.mapped()
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


def view(data: MappedFile, start: int, stop: int, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Bytes ``start .. stop`` as an array of ``dtype`` and ``shape``, without a copy where they are aligned."""
    raw = data[start:stop]
    kind = np.dtype(dtype)
    if (raw.ctypes.data % kind.alignment) != 0:
        raw = raw.copy()
        raw.flags.writeable = False
    return raw.view(kind).reshape(shape)

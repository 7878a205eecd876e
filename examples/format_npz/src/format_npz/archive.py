"""Reads a numpy archive from a stranger: no pickle, and no array larger than its file says."""

from __future__ import annotations

import ast
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmasos_hookspecs import CheckpointError

#: Types that weights have, as numpy's headers spell them.
TYPES = {"<f4": np.float32, "<f2": np.float16}
_MAGIC = b"\x93NUMPY\x01\x00"


class Archive:
    """An .npz file that ``numpy.savez`` wrote. ``shapes`` maps each array's name to its shape.

    Raises:
        CheckpointError: the file is damaged, or holds what is no array of floats.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                found = {entry.filename.removesuffix(".npy"): self._header(archive, entry) for entry in archive.infolist()}
        except (OSError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
            raise CheckpointError(f"{path} is no numpy archive that can be read ({error}); get the model again.") from error
        self._types = {name: kind for name, (kind, _) in found.items()}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: shape for name, (_, shape) in found.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.shapes:
            raise CheckpointError(f"{self._path} holds no tensor {name!r}.")
        return self.shapes[name]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One array, read anew each time."""
        shape, kind = self.shape(name), np.dtype(self._types[name])
        size = math.prod(shape) * kind.itemsize
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
                self._skip_header(file)
                data = file.read(size + 1)
        except (OSError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self._path} is damaged in {name} ({error}); get the model again.") from error
        if len(data) != size:
            raise CheckpointError(f"{self._path} is damaged in {name}, which is not as long as its header says; get the model again.")
        return np.frombuffer(data, kind).reshape(shape)

    def _header(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[str, tuple[int, ...]]:
        with archive.open(entry) as file:
            text = self._skip_header(file)
        try:
            header = ast.literal_eval(text.decode("latin-1"))
            kind, shape = header["descr"], tuple(header["shape"])
        except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
            raise ValueError(f"{entry.filename} has a header that is not numpy's") from error
        sound = kind in TYPES and all(type(size) is int and size >= 0 for size in shape) and header.get("fortran_order") is False
        if not sound or math.prod(shape) * np.dtype(TYPES[kind]).itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} is no array of float32 or float16 of the size that the archive says")
        return kind, shape

    @staticmethod
    def _skip_header(file: Any) -> bytes:
        start = file.read(10)
        if len(start) < 10 or start[:8] != _MAGIC:
            raise ValueError("an array does not begin as numpy's do")
        found: bytes = file.read(struct.unpack("<H", start[8:])[0])
        return found

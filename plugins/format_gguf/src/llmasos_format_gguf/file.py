"""Writing a GGUF file: header, table, and room for each tensor, filled in any order."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import attrs
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

ALIGNMENT: Final = 32
_VERSION: Final = 3

#: The numpy types that metadata has, and GGUF's number for each.
_SCALARS: Final[Mapping[type, tuple[int, str]]] = {
    np.uint8: (0, "<B"), np.int8: (1, "<b"), np.uint16: (2, "<H"), np.int16: (3, "<h"), np.uint32: (4, "<I"), np.int32: (5, "<i"),
    np.float32: (6, "<f"), bool: (7, "<?"), np.uint64: (10, "<Q"), np.int64: (11, "<q"), np.float64: (12, "<d"),
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9


@attrs.frozen
class Entry:
    """One tensor of the table; ``shape`` in numpy's order."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        block, size = GGML_QUANT_SIZES[self.kind]
        elements = 1
        for count in self.shape:
            elements *= count
        return elements // block * size


class GGUFFile:
    """A file with its header written and its tensors to come. ``with`` closes it, flushed to the disk.

    Args:
        path: the file to make.
        metadata: key -> str, bytes (text as it is), bool, a numpy number, a list of one of these, or a numpy array.
        entries: the tensors, in the order of the file.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any], entries: Iterable[Entry]) -> None:
        self._starts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        listed = list(entries)
        table, end = _table(listed, self._starts, self._sizes)
        header = b"GGUF" + struct.pack("<IQQ", _VERSION, len(listed), len(metadata))
        header += b"".join(_text(key) + _value(value) for key, value in metadata.items()) + table
        base = -(-len(header) // ALIGNMENT) * ALIGNMENT
        self._starts = {name: base + start for name, start in self._starts.items()}
        self.size = base + end
        self._file: BinaryIO = path.open("xb")
        self._file.write(header)
        self._file.flush()
        self._file.truncate(self.size)

    def put(self, name: str, data: npt.NDArray[np.uint8], offset: int = 0) -> None:
        """Write bytes of a tensor, from ``offset`` of its data on."""
        assert offset + data.nbytes <= self._sizes[name], f"{name} has room for {self._sizes[name]} bytes"
        self._file.seek(self._starts[name] + offset)
        self._file.write(np.ascontiguousarray(data).data)

    def flush(self) -> None:
        """Make what was written visible to readers."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _table(entries: list[Entry], starts: dict[str, int], sizes: dict[str, int]) -> tuple[bytes, int]:
    """The table of tensors; fills in where each begins, counted from the first, and its size. Returns the end of the last, too."""
    rows, offset = [], 0
    for entry in entries:
        starts[entry.name], sizes[entry.name] = offset, entry.nbytes
        dimensions = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
        rows.append(_text(entry.name) + dimensions + struct.pack("<IQ", entry.kind, offset))
        offset += -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
    return b"".join(rows), offset


def _text(value: str | bytes) -> bytes:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """A value of the metadata with its type before it."""
    if isinstance(value, (str, bytes)):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        kind, form = _SCALARS[bool if value.dtype == np.bool_ else value.dtype.type]
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + value.astype(np.dtype(form)).tobytes()
    if isinstance(value, list):
        if all(isinstance(item, (str, bytes)) for item in value):
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_text(item) for item in value)
        kind, form = _SCALARS[type(value[0])]
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(struct.pack(form, item) for item in value)
    kind, form = _SCALARS[type(value)]
    return struct.pack("<I", kind) + struct.pack(form, value)

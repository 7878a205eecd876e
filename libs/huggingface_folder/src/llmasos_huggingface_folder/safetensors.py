"""The safetensors format: reading with every size checked, and writing.

Format: eight bytes of header length (little-endian), a JSON header, then the tensors' bytes. The header's ``data_offsets``
count from its end. See https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

import attrs
import ml_dtypes
import numpy as np
import numpy.typing as npt

from llmasos_checkpoint_kit.folder import parse_json
from llmasos_checkpoint_kit.mapped import MappedFile, map_file, view
from llmasos_hookspecs import CheckpointError

#: Name in the header -> numpy's type.
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

#: The longest header that is parsed. 60,000 tensors need about 6 MB.
MAX_HEADER_BYTES: Final = 16 << 20
MAX_TENSORS: Final = 100_000
MAX_DIMENSIONS: Final = 8


@attrs.frozen
class StoredTensor:
    """Where a tensor lies in its file: bytes ``start .. stop``, counted from the file's beginning."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """One safetensors file, mapped into memory. Its header is checked in full when it is opened.

    Raises:
        CheckpointError: the file is missing or truncated; or its header is longer than it or than any real one, is no JSON,
            or names a type, a shape or a place that does not fit; or tensors overlap or leave gaps.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = map_file(path)
        self.tensors: Mapping[str, StoredTensor] = _read_header(path, self._data)

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """The tensor, read-only: a view of the file where that is mapped."""
        stored = self.tensors[name]
        return view(self._data, stored.start, stored.stop, stored.dtype, stored.shape)


def _read_header(path: Path, data: MappedFile) -> dict[str, StoredTensor]:
    if data.size < 8:
        raise CheckpointError(f"{path} has {data.size} bytes and is no safetensors file; get the checkpoint again.")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > data.size - 8:
        raise CheckpointError(f"{path} is truncated, or no safetensors file: its header is longer than the file; get the checkpoint again.")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} has a header of {length} bytes, more than any real checkpoint's; get the checkpoint again.")
    header = parse_json(data[8 : 8 + length].tobytes(), f"The header of {path}")
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise CheckpointError(f"The header of {path} is not an object of tensors; get the checkpoint again.")
    base = 8 + length
    tensors = {name: _entry(path, name, entry, base, data.size) for name, entry in header.items() if name != "__metadata__"}
    end = base
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != end:
            raise CheckpointError(f"{path} holds tensor {name!r} overlapping another or after a gap; get the checkpoint again.")
        end = stored.stop
    if end != data.size:
        raise CheckpointError(f"{path} has {data.size} bytes and its tensors end at {end}; get the checkpoint again.")
    return tensors


def _entry(path: Path, name: str, entry: Any, base: int, size: int) -> StoredTensor:
    where = f"The header of {path} describes tensor {name[:80]!r}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where} by something that is no object; get the checkpoint again.")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where} with dtype {str(dtype)[:20]!r}, and the types known are {', '.join(DTYPES)}.")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{where} with an impossible shape; get the checkpoint again.")
    if not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{where} without a place in the file; get the checkpoint again.")
    start, stop = base + offsets[0], base + offsets[1]
    if stop > size:
        raise CheckpointError(f"{path} is truncated: tensor {name[:80]!r} ends at byte {stop} of {size}; get the checkpoint again.")
    if math.prod(shape) * DTYPES[dtype].itemsize != stop - start:
        raise CheckpointError(f"{where} with a shape and dtype that do not fit its {stop - start} bytes; get the checkpoint again.")
    return StoredTensor(DTYPES[dtype], tuple(shape), start, stop)


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


class SafetensorsStream:
    """Writes one safetensors file tensor by tensor, so that no more than one is in memory.

    The header comes first in the file and is known last: ``reserve`` bytes are kept free for it, and the format lets it be padded
    with spaces. ``fits`` says whether a tensor may still go into this file.
    """

    def __init__(self, path: Path, reserve: int) -> None:
        self.path = path
        self.nbytes = 0
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._reserve = -(-reserve // 8) * 8
        self._used = 64
        self._file = path.open("wb")
        self._file.seek(8 + self._reserve)

    @property
    def names(self) -> list[str]:
        """Names of the tensors written."""
        return [name for name in self._entries if name != "__metadata__"]

    def fits(self, name: str, array: npt.NDArray[Any]) -> bool:
        """Whether there is room in the header, and the tensor would be aligned: readers map it, and the format allows no gaps."""
        return self._used + _entry_bytes(name, array) <= self._reserve and self.nbytes % array.dtype.itemsize == 0

    def append(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write one tensor that ``fits``."""
        stop = self.nbytes + array.nbytes
        self._entries[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [self.nbytes, stop]}
        self._used += _entry_bytes(name, array)
        if array.nbytes:
            # bfloat16 has no buffer protocol of its own; as bytes every type has.
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self.nbytes = stop

    def close(self) -> None:
        """Write the header and flush the file to the disk."""
        text = json.dumps(self._entries, separators=(",", ":")).encode()
        self._file.seek(0)
        self._file.write(self._reserve.to_bytes(8, "little") + text.ljust(self._reserve))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(OSError):  # what is still buffered does not matter, and a full disk does not take it
            self._file.close()


def _entry_bytes(name: str, array: npt.NDArray[Any]) -> int:
    """Bytes that an entry of the header takes at most: two offsets of 20 digits, and the punctuation."""
    return len(json.dumps(name)) + 21 * array.ndim + 110

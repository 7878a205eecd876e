"""The header of a GGUF file: metadata and the table of tensors, with every count and size checked.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. ``gguf.GGUFReader`` trusts what it reads and makes an
object of every string; this reader takes no memory for a number it has not compared with the size of the file, and decodes
an array of strings when it is asked for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llmasos_checkpoint_kit.mapped import MappedFile, map_file
from llmasos_hookspecs import CheckpointError, UnsupportedModel

MAX_STRING_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 100_000
MAX_ARRAY: Final = 4_000_000
MAX_DIMENSIONS: Final = 4
DEFAULT_ALIGNMENT: Final = 32
#: Bytes that are parsed as the header at first; vocabularies of 250,000 tokens need some 10 MB.
FIRST_BYTES: Final = 16 << 20

_SCALARS: Final[Mapping[int, struct.Struct]] = {
    kind: struct.Struct(code)
    for kind, code in {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}.items()
}
_ARRAYS: Final[Mapping[int, str]] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


@attrs.frozen
class GGUFTensor:
    """One tensor of the file. ``shape`` is numpy's order (rows first), ``start`` counts from the beginning of the file; ``part`` says
    of which, where the model is split."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    nbytes: int
    part: int = 0


@attrs.frozen(eq=False)
class StringArray:
    """An array of strings that is still in the file, each behind its length; ``ends`` says where each ends, int64 [count]."""

    data: npt.NDArray[np.uint8]
    start: int
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        begin = self.start if index == 0 else int(self.ends[index - 1])
        return bytes(self.data.data[begin + 8 : int(self.ends[index])])

    def raw(self) -> Iterator[bytes]:
        """The strings as bytes, in order."""
        if not len(self.ends):
            return
        # Of one copy: a piece of bytes is cut in half the time that a piece of a mapped file takes.
        whole = bytes(self.data.data[self.start : int(self.ends[-1])])
        begin = 8
        for end in (self.ends - self.start).tolist():
            yield whole[begin:end]
            begin = end + 8

    def decoded(self) -> list[str]:
        """The strings; bytes that are no UTF-8 become U+FFFD."""
        return [item.decode("utf-8", "replace") for item in self.raw()]


@attrs.frozen(eq=False)
class GGUFHeader:
    """What a GGUF file, or all parts of a split one, say of themselves.

    ``metadata`` holds plain numbers and strings; arrays are numpy arrays (views of the file) or ``StringArray``. ``files`` are the
    parts in order, each mapped into memory; ``path`` is the first.
    """

    path: Path
    files: tuple[MappedFile, ...]
    metadata: Mapping[str, Any]
    tensors: tuple[GGUFTensor, ...]

    def raw(self, tensor: GGUFTensor, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, or those from ``start`` to ``stop`` of it: uint8, a view of its file where that is mapped."""
        return self.files[tensor.part][tensor.start + start : tensor.start + (tensor.nbytes if stop is None else stop)]


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file of version 2 or 3.

    Raises:
        CheckpointError: it is no GGUF file, is truncated, or a count, size, type or place in it is impossible.
        UnsupportedModel: it is big-endian, of another version, or holds a tensor type that is not read here.
    """
    data = map_file(path)
    length = min(FIRST_BYTES, data.size)
    while True:
        try:
            return _parse(path, data, _Reader(path, data[:length], data.size))
        except _Longer:  # of a mapped file only the parsing is done again
            length = min(4 * length, data.size)


def _parse(path: Path, data: MappedFile, reader: _Reader) -> GGUFHeader:
    """The header that ``reader`` has the first bytes of. Raises ``_Longer`` where it needs more of them."""
    if reader.take(4) != b"GGUF":
        raise CheckpointError(f"{path} does not begin with GGUF and is no GGUF file; get it again.")
    version = reader.unpack(_U32)
    if version & 0xFFFF == 0:
        raise UnsupportedModel(f"{path} is a big-endian GGUF file; get the little-endian one.")
    if version not in (2, 3):
        raise UnsupportedModel(f"{path} is of GGUF version {version}, and versions 2 and 3 are read; convert it with a newer llama.cpp.")
    tensor_count, entry_count = reader.unpack(_U64), reader.unpack(_U64)
    # The least that a tensor takes in the table is 24 bytes, a metadata entry 13.
    if tensor_count > min(MAX_ENTRIES, reader.left // 24) or entry_count > min(MAX_ENTRIES, reader.left // 13):
        raise CheckpointError(f"{path} announces {tensor_count} tensors and {entry_count} entries, more than it can hold; get it again.")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        key = reader.text("a metadata key")
        if key in metadata:
            raise CheckpointError(f"{path} holds the metadata key {key[:80]!r} twice; get it again.")
        metadata[key] = reader.value(reader.unpack(_U32), key)
    table = [_table_entry(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise CheckpointError(f"{path} has general.alignment {str(alignment)[:40]!r}, which must be a power of two; get it again.")
    base = -(-reader.offset // alignment) * alignment
    return GGUFHeader(path, (data,), metadata, _placed(path, data.size, base, alignment, table))


@attrs.frozen
class _Entry:
    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int


def _table_entry(reader: _Reader) -> _Entry:
    name = reader.text("a tensor's name")
    dimensions = reader.unpack(_U32)
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise CheckpointError(f"{reader.path} gives tensor {name[:80]!r} {dimensions} dimensions; get it again.")
    sizes = [reader.unpack(_U64) for _ in range(dimensions)]
    return _Entry(name, reader.unpack(_U32), tuple(reversed(sizes)), reader.unpack(_U64))


def _placed(path: Path, size: int, base: int, alignment: int, table: list[_Entry]) -> tuple[GGUFTensor, ...]:
    """The tensors with their places in the file, each checked against its type, the file and its neighbours."""
    tensors = []
    for entry in table:
        try:
            kind = GGMLQuantizationType(entry.kind)
        except ValueError as error:
            raise UnsupportedModel(f"{path} holds tensor {entry.name[:80]!r} of the unknown type {entry.kind}; update gguf.") from error
        block, block_bytes = GGML_QUANT_SIZES[kind]
        elements = math.prod(entry.shape)
        if not elements or entry.shape[-1] % block:
            raise CheckpointError(f"{path} gives tensor {entry.name[:80]!r} a shape that {kind.name} cannot hold; get it again.")
        nbytes = elements // block * block_bytes
        if entry.offset % alignment or base + entry.offset + nbytes > size:
            raise CheckpointError(f"{path} is truncated or damaged: tensor {entry.name[:80]!r} does not lie within it; get it again.")
        tensors.append(GGUFTensor(entry.name, kind, entry.shape, base + entry.offset, nbytes))
    end = base
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start < end:
            raise CheckpointError(f"{path} holds tensor {tensor.name[:80]!r} overlapping another; get it again.")
        end = tensor.start + tensor.nbytes
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise CheckpointError(f"{path} holds two tensors of one name; get it again.")
    return tuple(tensors)


class _Longer(Exception):
    """The header is longer than what was read of the file."""


class _Reader:
    """Reads forward through ``data``, the beginning of a file of ``size`` bytes, and never past its end."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8], size: int) -> None:
        self.path = path
        self.offset = 0
        self._data = data
        self._buffer = data.data
        self._size = size

    @property
    def left(self) -> int:
        return self._size - self.offset

    def take(self, count: int) -> bytes:
        return bytes(self._buffer[self._advance(count) : self.offset])

    def unpack(self, form: struct.Struct) -> Any:
        return form.unpack_from(self._buffer, self._advance(form.size))[0]

    def text(self, what: str) -> str:
        length = self.unpack(_U64)
        if length > MAX_STRING_BYTES:
            raise CheckpointError(f"{self.path} holds {what} of {length} bytes, more than any real file's; get it again.")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, key: str) -> Any:
        if (form := _SCALARS.get(kind)) is not None:
            return self.unpack(form)
        if kind == _STRING:
            return self.text(f"the metadata {key[:80]!r}")
        if kind == _ARRAY:
            return self._array(self.unpack(_U32), self.unpack(_U64), key)
        raise CheckpointError(f"{self.path} gives the metadata key {key[:80]!r} the unknown type {kind}; get it again.")

    def _array(self, kind: int, count: int, key: str) -> Any:
        if count > MAX_ARRAY:
            raise CheckpointError(f"{self.path} gives {key[:80]!r} {count} elements, more than any real file's; get it again.")
        if kind == _STRING:
            return self._skip_strings(count)
        if kind not in _ARRAYS:
            raise CheckpointError(f"{self.path} gives {key[:80]!r} elements of type {kind}, which no array has; get it again.")
        form = np.dtype(_ARRAYS[kind])
        start = self._advance(count * form.itemsize)
        return self._data[start : self.offset].view(form)

    def _skip_strings(self, count: int) -> StringArray:
        # One tight loop: vocabularies have hundreds of thousands of strings, and a call for each doubles the time to open.
        start = offset = self.offset
        last, buffer, read = self._data.size - 8, self._buffer, _U64.unpack_from
        ends = []
        for _ in range(count):
            if offset > last:
                offset = self._data.size + 1
                break
            offset += 8 + read(buffer, offset)[0]
            ends.append(offset)
        self._advance(offset - start)
        return StringArray(self._data, start, np.array(ends, np.int64))

    def _advance(self, count: int) -> int:
        start = self.offset
        if count > self._data.size - start:
            if self._data.size < self._size and count <= self._size - start:
                raise _Longer
            raise CheckpointError(f"{self.path} is truncated or damaged: its header runs past its end; get it again.")
        self.offset = start + count
        return start

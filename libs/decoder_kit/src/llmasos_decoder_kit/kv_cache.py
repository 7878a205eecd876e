"""Keys and values of every layer in memory that the graph reads and writes in place."""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_decoder_kit.reserved import reserve

_PAGE: Final = mmap.PAGESIZE


class KVCache:
    """Two arrays a layer, [rows, kv_heads, length, head_dim] of ``dtype``; a sequence has one row in all of them.

    Address space for full-length rows is reserved, and the system commits memory page by page as tokens are written; ``forget`` returns
    it. A token takes ``bytes_per_token``.
    """

    def __init__(self, *, layers: int, rows: int, kv_heads: int, length: int, head_dim: int, dtype: npt.DTypeLike = np.float32) -> None:
        self.rows = rows
        self.length = length
        self.shape = (kv_heads, length, head_dim)
        self.row_bytes = kv_heads * length * head_dim * np.dtype(dtype).itemsize
        self.bytes_per_token = 2 * layers * kv_heads * head_dim * np.dtype(dtype).itemsize
        self._maps = [reserve(rows * self.row_bytes) for _ in range(2 * layers)]
        self._arrays = [np.frombuffer(area, dtype=dtype).reshape(rows, *self.shape) for area in self._maps]

    def pointers(self, row: int) -> list[int]:
        """The address of ``row`` in each array: key and value of layer 0, of layer 1, and so on."""
        return [array.ctypes.data + row * self.row_bytes for array in self._arrays]

    def views(self, row: int, count: int) -> list[npt.NDArray[Any]]:
        """Rows ``row`` and following of each array, in the order of ``pointers``; drop them before ``close``."""
        return [array[row : row + count] for array in self._arrays]

    def copy(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``."""
        for array in self._arrays:
            array[target, :, :length] = array[source, :, :length]

    def swap(self, first: int, first_length: int, second: int, second_length: int) -> None:
        """Exchange two rows with the given lengths in tokens."""
        for array in self._arrays:
            kept = array[first, :, :first_length].copy()
            array[first, :, :second_length] = array[second, :, :second_length]
            array[second, :, :first_length] = kept

    def forget(self, row: int) -> None:
        """Return the memory of a row to the system."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start, end = -(-row * self.row_bytes // _PAGE) * _PAGE, (row + 1) * self.row_bytes // _PAGE * _PAGE
        if end > start:
            for area in self._maps:
                area.madvise(mmap.MADV_DONTNEED, start, end - start)

    def close(self) -> None:
        """Free all memory; pointers are invalid afterwards."""
        self._arrays.clear()
        for area in self._maps:
            area.close()
        self._maps.clear()

"""Keys and values of every layer in blocks of tokens, which sequences take, share and give back."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.attention import BLOCK
from llmasos_backend_openvino.runtime import ov
from llmasos_hookspecs import CapacityExceeded, DecoderConfig

#: Numpy's type of the same width, and OpenVINO's type.
_TYPES: Final[dict[str, tuple[Any, Any]]] = {"f32": (np.uint32, ov.Type.f32), "bf16": (np.uint16, ov.Type.bf16)}


#: Heads and their size of the key cache of layer 0, of its value cache, of the key cache of layer 1, and so on.
Caches = Sequence[tuple[int, int]]


def caches_of(config: DecoderConfig) -> Caches:
    """The caches of a decoder whose layers are alike."""
    return [(config.num_kv_heads, config.head_dim)] * (2 * config.num_layers)


def token_bytes(caches: Caches, precision: str) -> int:
    """Bytes of one token's keys and values in all layers."""
    return int(sum(heads * size for heads, size in caches) * np.dtype(_TYPES[precision][0]).itemsize)


class BlockPool:
    """``blocks`` blocks, each with the number of sequences that hold it.

    Address space for all of them is reserved, and the system gives memory page by page as tokens come. Blocks that were used before are
    taken first.
    """

    def __init__(self, caches: Caches, blocks: int, precision: str) -> None:
        held, kind = _TYPES[precision]
        shapes = [(blocks, heads, BLOCK, size) for heads, size in caches]
        self._maps = [_reserve(int(np.prod(shape)) * np.dtype(held).itemsize) for shape in shapes]
        self._arrays = [np.frombuffer(area, dtype=held).reshape(shape) for area, shape in zip(self._maps, shapes, strict=True)]
        #: Key and value cache of layer 0, of layer 1, and so on; they share the pool's memory.
        self.tensors = [ov.Tensor(array, ov.Shape(list(array.shape)), kind) for array in self._arrays]
        self._holders = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def take(self) -> int:
        """A block with one holder. Raises ``CapacityExceeded`` where none is free."""
        if not self._free:
            raise CapacityExceeded(
                f"All {len(self._holders)} blocks of {BLOCK} tokens of keys and values are held; close a slot, or allow more memory."
            )
        block = self._free.pop()
        self._holders[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """One holder more for each."""
        for block in blocks:
            self._holders[block] += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """One holder less for each."""
        for block in blocks:
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free.append(block)

    def shared(self, block: int) -> bool:
        """Whether more than one sequence holds it, so that it must not be written to."""
        return self._holders[block] > 1

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` does."""
        for array in self._arrays:
            array[target] = array[source]

    def write(self, at: int, blocks: Sequence[int], start: int, values: npt.NDArray[np.float32]) -> None:
        """Put keys or values [n, heads, size] of the tokens from ``start`` on into a sequence's blocks of the cache ``at`` a place."""
        array = self._arrays[at]
        places = np.arange(start, start + len(values))
        stored = values if array.itemsize == 4 else values.astype(ml_dtypes.bfloat16)
        array[np.asarray(blocks)[places // BLOCK], :, places % BLOCK] = stored.view(array.dtype)

    def close(self) -> None:
        """Let go of the memory; it is freed with the last tensor over it."""
        self.tensors.clear()
        self._arrays.clear()
        self._maps.clear()


def blocks_for(tokens: int) -> int:
    """Blocks that so many tokens of one sequence take."""
    return -(-tokens // BLOCK)


def _reserve(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A huge page would commit many blocks with the first.
        area.madvise(mmap.MADV_NOHUGEPAGE)
    return area

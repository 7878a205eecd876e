"""Keys and values of every layer in blocks of tokens, which sequences take, share and give back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.cache_memory import HostMemory, Memory
from llmasos_backend_openvino.layout import Layout
from llmasos_hookspecs import CapacityExceeded


class BlockPool:
    """``blocks`` blocks, each with the number of sequences that hold it. Those that were used before are taken first."""

    def __init__(self, layout: Layout, blocks: int, memory: Memory) -> None:
        self.layout: Final = layout
        self.memory: Final = memory
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
                f"All {len(self._holders)} blocks of {self.layout.block} tokens of keys and values are held; close a slot, or allow more "
                "memory."
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

    def write(self, at: int, blocks: Sequence[int], start: int, values: npt.NDArray[np.float32]) -> None:
        """Put keys or values [n, heads, size] of the tokens from ``start`` on into a sequence's blocks of the cache ``at`` a place, where
        blocks are [heads, tokens, size]."""
        assert isinstance(self.memory, HostMemory)  # graphs for other devices write their keys and values themselves
        places = np.arange(start, start + len(values))
        self.memory.write(at, (np.asarray(blocks)[places // self.layout.block], slice(None), places % self.layout.block), values)

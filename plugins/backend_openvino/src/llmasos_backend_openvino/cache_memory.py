"""Memory for the blocks of keys and values: the process's own, or a device's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.layout import Layout
from llmasos_backend_openvino.runtime import ov
from llmasos_decoder_kit.reserved import reserve

#: Numpy's type of as many bytes, whatever they mean.
_HELD: Final[dict[int, Any]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
#: Numpy's type of what a session writes itself.
_WRITTEN: Final[dict[str, Any]] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


class Memory(Protocol):
    """Where the blocks of all caches lie."""

    @property
    def tensors(self) -> Sequence[Any]:
        """Of each cache OpenVINO's tensor, with the blocks along its first axis."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make the block ``target`` hold what ``source`` does, in every cache."""
        ...

    def close(self) -> None:
        """Let go of it; it is freed with the last request that has a tensor of it."""
        ...


class HostMemory:
    """Memory of the process. Address space for all blocks is reserved, and the system gives memory page by page as tokens come.

    Raises ``OSError`` or ``MemoryError`` where there is not so much address space.
    """

    def __init__(self, layout: Layout, blocks: int) -> None:
        self._kinds = [cache.kind for cache in layout.caches]
        self._maps = [reserve(blocks * cache.block_bytes) for cache in layout.caches]
        self.arrays = [
            np.frombuffer(area, dtype=_HELD[cache.kind.size]).reshape(blocks, *cache.shape)
            for area, cache in zip(self._maps, layout.caches, strict=True)
        ]
        self.tensors = [ov.Tensor(array, ov.Shape(list(array.shape)), kind) for array, kind in zip(self.arrays, self._kinds, strict=True)]

    def copy(self, source: int, target: int) -> None:
        for array in self.arrays:
            array[target] = array[source]

    def write(self, at: int, places: Any, values: npt.NDArray[np.float32]) -> None:
        """Put values at the places, a numpy index, of the cache at a place of ``Layout.caches``."""
        written = _WRITTEN[self._kinds[at].get_type_name()]
        self.arrays[at][places] = values.astype(written, copy=False).view(self.arrays[at].dtype)

    def close(self) -> None:
        self.tensors.clear()
        self.arrays.clear()
        self._maps.clear()


class DeviceMemory:
    """Memory of a device, which copies blocks itself; all of it is taken at once.

    Raises ``RuntimeError`` where the device has not so much.
    """

    def __init__(self, layout: Layout, blocks: int, device: str) -> None:
        context = ov.Core().get_default_context(device)
        self.tensors = [context.create_tensor(cache.kind, ov.Shape([blocks, *cache.shape]), {}) for cache in layout.caches]

    def copy(self, source: int, target: int) -> None:
        for tensor in self.tensors:
            _block(tensor, target).copy_from(_block(tensor, source))

    def close(self) -> None:
        self.tensors.clear()


def _block(tensor: Any, at: int) -> Any:
    """A view of one block."""
    shape = list(tensor.get_shape())
    return type(tensor)(tensor, ov.Coordinate([at, 0, 0, 0]), ov.Coordinate([at + 1, *shape[1:]]))

"""The weights of a checkpoint as one safetensors file, or as shards with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from llmasos_checkpoint_kit.writing import write_json
from llmasos_huggingface_folder.checkpoint import INDEX, WEIGHTS
from llmasos_huggingface_folder.safetensors import SafetensorsStream

#: Bytes of header that one weight takes at most, with its packed parts.
_HEADER_PER_TENSOR: Final = 1024


class ShardWriter:
    """Writes weights as they come, opening a new file when one is full; the parts of one weight stay together.

    ``tensors``: how many weights to expect, for the size of the headers; more of them only means more files.
    """

    def __init__(self, folder: Path, shard_bytes: int, *, tensors: int) -> None:
        self._folder = folder
        self._limit = shard_bytes
        self._reserve = _HEADER_PER_TENSOR * (tensors + 8)
        self._open: SafetensorsStream | None = None
        self._closed: list[SafetensorsStream] = []

    def add(self, parts: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the stored tensors of one weight. The order is that of sizes, so that one of 8-byte numbers does not follow one of
        2-byte numbers out of line."""
        order = sorted(parts, key=lambda name: -parts[name].dtype.itemsize)
        size = sum(array.nbytes for array in parts.values())
        if self._open is not None and self._open.nbytes and self._open.nbytes + size > self._limit:
            self._close()
        for name in order:
            if self._open is not None and not self._open.fits(name, parts[name]):
                self._close()
            if self._open is None:
                self._open = SafetensorsStream(self._folder / f"part-{len(self._closed)}", self._reserve)
            self._open.append(name, parts[name])

    def finish(self) -> None:
        """Give the files their names and write the index where there are several."""
        self._close()
        if len(self._closed) == 1:
            self._closed[0].path.rename(self._folder / WEIGHTS)
            return
        total = len(self._closed)
        places: dict[str, str] = {}
        for number, stream in enumerate(self._closed, 1):
            name = f"model-{number:05d}-of-{total:05d}.safetensors"
            stream.path.rename(self._folder / name)
            places |= dict.fromkeys(stream.names, name)
        size = sum(stream.nbytes for stream in self._closed)
        write_json(self._folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})

    def abandon(self) -> None:
        """Close the file that is open, as it is."""
        if self._open is not None:
            self._open.abandon()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._closed.append(self._open)
            self._open = None

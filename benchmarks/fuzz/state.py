"""What a child leaves for its runner, whatever ends it: how many inputs it ran, and the one it was at."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

import attrs

#: Largest input.
MOST_BYTES: Final = 1 << 20
_HEAD: Final = 16


@attrs.frozen
class Left:
    """What the file says: inputs begun, and the last of them."""

    runs: int
    data: bytes


class State:
    """A file in memory, which the system writes even where the process is killed."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_HEAD + MOST_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.runs = 0

    def begin(self, data: bytes) -> None:
        """Note an input before it is run."""
        self.runs += 1
        data = data[:MOST_BYTES]
        self._map[:_HEAD] = self.runs.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        self._map[_HEAD : _HEAD + len(data)] = data


def read_state(path: Path) -> Left:
    """What a child left; nothing where it did not come so far."""
    if not path.is_file():
        return Left(0, b"")
    with path.open("rb") as file:
        head = file.read(_HEAD)
        return Left(int.from_bytes(head[:8], "little"), file.read(int.from_bytes(head[8:], "little")))

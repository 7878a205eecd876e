"""What a fuzz target is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.fuzz.containment import contained
from benchmarks.fuzz.mutation import Mutator, plain
from benchmarks.fuzz.probing import probed_here

#: Bytes that a case may take, and seconds of processor time.
MEMORY: Final = 256 << 20
SECONDS: Final = 5.0


@attrs.frozen(kw_only=True)
class Room:
    """Where a target works: ``folder`` holds what is read, ``scratch`` is where a reader may write."""

    folder: Path
    scratch: Path


@attrs.frozen(kw_only=True)
class Target:
    """A reader of one kind of file.

    Attributes:
        seeds: whole files of the kind, which the reader takes.
        prepare: puts an input in its place.
        read: reads it, contained; gives what it refused of a file that it reads on.
        clear: removes what a case left.
        mutate: makes another input of one.
        seconds: of processor time, after which a case counts as a hang.
    """

    name: str
    seeds: Sequence[bytes]
    prepare: Callable[[bytes], None]
    read: Callable[[], Sequence[str] | None]
    clear: Callable[[], None] = lambda: None
    room: Room
    mutate: Mutator = plain
    seconds: float = SECONDS

    def one(self, data: bytes) -> None:
        """Read an input. Raises what no reader may: ``Strayed``, or an error that is not ours."""
        self.prepare(data)
        try:
            with probed_here(), contained(self.room.folder, MEMORY, scratch=self.room.scratch, traced=False):
                self.read()
        finally:
            self.clear()

    def warm(self, seed: bytes) -> None:
        """Read a seed without bounds, so that what is imported on first use is imported. Raises where it is no sound one."""
        self.prepare(seed)
        try:
            with probed_here():
                refused = self.read()
            assert not refused, refused
        finally:
            self.clear()

    def mutated(self, data: bytes, limit: int, seed: int) -> bytes:
        """Another input, of ``limit`` bytes at most."""
        return self.mutate(data, random.Random(seed))[:limit]

"""What every way of keeping an exported decoder's sequences offers to the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import attrs

from llmasos_backend_onnx.steps import Floats, Integers
from llmasos_hookspecs import CapacityExceeded, Row

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Abilities:
    """What an exported graph computes rightly beyond its first run; found by trying (``trials``).

    Attributes:
        chunks: several tokens that follow others in one run.
        batch: tokens of several sequences in one run: of any lengths (``padded``), of the same (``equal``) or not at all.
    """

    chunks: bool = False
    batch: Literal["padded", "equal", "none"] = "none"


class Sequences(Protocol):
    """Open slots, what they hold, and how it grows."""

    def open(self) -> int: ...
    def close(self, slot: int) -> None: ...
    def fork(self, slot: int) -> int: ...
    def length(self, slot: int) -> int: ...
    def truncate(self, slot: int, length: int) -> None: ...

    @property
    def tokens(self) -> int:
        """Tokens that all slots hold together."""
        ...

    def compute(self, rows: Sequence[Row], tokens: Sequence[Integers]) -> list[Floats]:
        """The logits of each row as ``Engine.step`` returns them; its tokens are kept only where all rows succeed."""
        ...

    def release(self) -> None:
        """Free everything."""
        ...


class OpenSlots(Generic[T]):
    """Slot ids, never used twice, and what stands behind each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, T] = {}
        self._next = 0

    def add(self, make: Callable[[int], T]) -> int:
        """A new slot, behind which stands what ``make`` makes of its id. Raises ``CapacityExceeded`` where all are open."""
        if len(self._held) >= self._most:
            raise CapacityExceeded(f"All {self._most} slots of the engine are open; close one, or load with a larger max_sequences.")
        slot, self._next = self._next, self._next + 1
        self._held[slot] = make(slot)
        return slot

    def __getitem__(self, slot: int) -> T:
        try:
            return self._held[slot]
        except KeyError:
            raise ValueError(f"Slot {slot} is not open; open slots are {sorted(self._held) or 'none'}.") from None

    def values(self) -> Iterable[T]:
        return self._held.values()

    def remove(self, slot: int) -> T:
        found = self[slot]
        del self._held[slot]
        return found

    def clear(self) -> None:
        self._held.clear()

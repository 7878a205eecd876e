"""The interface between the engine and the implementations that store an exported decoder's sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import attrs

from llmasos_backend_onnx.steps import Floats, Integers
from llmasos_hookspecs import CapacityExceeded, Row

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Abilities:
    """What an exported graph computes correctly besides a first prompt; tested at load (``trials``).

    Attributes:
        chunks: several tokens after cached ones in one run.
        batch: several sequences in one run: of any lengths (``padded``), of equal lengths (``equal``) or not at all.
    """

    chunks: bool = False
    batch: Literal["padded", "equal", "none"] = "none"


class Sequences(Protocol):
    """Open slots and their KV caches."""

    def open(self) -> int: ...
    def close(self, slot: int) -> None: ...
    def fork(self, slot: int) -> int: ...
    def length(self, slot: int) -> int: ...
    def truncate(self, slot: int, length: int) -> None: ...

    @property
    def tokens(self) -> int:
        """Tokens in all slots together."""
        ...

    def compute(self, rows: Sequence[Row], tokens: Sequence[Integers]) -> list[Floats]:
        """The logits of each row as ``Engine.step`` returns them; the tokens are kept only if all rows succeed."""
        ...

    def release(self) -> None:
        """Free everything."""
        ...


class OpenSlots(Generic[T]):
    """Slot ids, never used twice, and the object of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, T] = {}
        self._next = 0

    def add(self, make: Callable[[int], T]) -> int:
        """Open a slot with the object that ``make`` returns for its id. Raises ``CapacityExceeded`` if all slots are open."""
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

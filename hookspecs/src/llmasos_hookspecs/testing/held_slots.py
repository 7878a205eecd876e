"""The slots that a test opened."""

from __future__ import annotations

from typing import Generic, TypeVar

from llmasos_hookspecs.engine import Engine

E = TypeVar("E", bound=Engine)


class HeldSlots(Generic[E]):
    """Opens slots of an engine under test, and closes those that are left."""

    def __init__(self, engine: E) -> None:
        self.engine = engine
        self._slots: list[int] = []

    def open(self) -> int:
        self._slots.append(self.engine.open())
        return self._slots[-1]

    def fork(self, slot: int) -> int:
        self._slots.append(self.engine.fork(slot))
        return self._slots[-1]

    def close(self, slot: int) -> None:
        self._slots.remove(slot)
        self.engine.close(slot)

    def close_all(self) -> None:
        while self._slots:
            self.engine.close(self._slots.pop())

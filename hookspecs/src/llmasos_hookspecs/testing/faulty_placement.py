"""A placement that breaks the laws of placements, for tests of what relies on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from llmasos_hookspecs.placement import Host, Placement, Seat, SeatSpec

#: What a fault does with its message: ``lose`` it; give it ``twice``; give it after the next one (``swap``); give it after the seat's end
#: (``late``); end the seat in its place (``die``); lose it and all that follow, in both directions, without any end (``mute``).
FAULTS: Final = ("lose", "twice", "swap", "late", "die", "mute")
#: From core to the seat, and from the seat to core.
DIRECTIONS: Final = ("there", "back")


@attrs.frozen
class PlacementFault:
    """Strikes message number ``at``, counted from 0, that goes in ``direction``, of the first seat that gets so far; once."""

    what: str = attrs.field(validator=attrs.validators.in_(FAULTS))
    direction: str = attrs.field(validator=attrs.validators.in_(DIRECTIONS))
    at: int


class FaultyPlacement:
    """Another placement with one fault.

    Attributes:
        struck: set when the fault has struck.
    """

    def __init__(self, inner: Placement, fault: PlacementFault) -> None:
        self.struck = threading.Event()
        self._inner = inner
        self._fault = fault
        self._lock = threading.Lock()

    def hosts(self) -> Sequence[Host]:
        return self._inner.hosts()

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> Seat:
        return _FaultySeat(self, self._inner, spec, on_message, on_end)

    def close(self) -> None:
        self._inner.close()

    def strikes(self, direction: str, number: int) -> str:
        """What happens to a message; empty: it passes."""
        fault = self._fault
        with self._lock:
            if self.struck.is_set() or (fault.direction, fault.at) != (direction, number):
                return ""
            self.struck.set()
            return fault.what


class _Line:
    """One direction of a seat's connection."""

    def __init__(self, direction: str, placement: FaultyPlacement, seat: _FaultySeat) -> None:
        self._direction = direction
        self._placement = placement
        self._seat = seat
        self._count = 0
        self._swapped: list[bytes] = []
        self.late: list[bytes] = []

    def passed(self, message: bytes) -> list[bytes]:
        """What is given in place of ``message``."""
        what = "" if self._seat.muted else self._placement.strikes(self._direction, self._count)
        self._count += 1
        swapped, self._swapped = self._swapped, []
        if what == "mute":
            self._seat.muted = True
        if what == "die":
            self._seat.kill()
        if self._seat.muted or what in ("lose", "die"):
            return []
        if what == "twice":
            return [message, message]
        if what == "swap":
            self._swapped = [message]
            return []
        if what == "late":
            self.late.append(message)
            return []
        return [message, *swapped]


class _FaultySeat:
    def __init__(
        self,
        placement: FaultyPlacement,
        inner: Placement,
        spec: SeatSpec,
        on_message: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.muted = False
        self._on_message = on_message
        self._on_end = on_end
        self._there, self._back = _Line("there", placement, self), _Line("back", placement, self)
        self._sending = threading.Lock()
        self._started = threading.Event()  # callbacks may come before ``start`` returns
        self._seat = inner.start(spec, self._receive, self._end)
        self._started.set()

    @property
    def where(self) -> str:
        return self._seat.where

    def send(self, message: bytes) -> bool:
        with self._sending:
            sent = [self._seat.send(each) for each in self._there.passed(message)]
            return all(sent)

    def kill(self) -> None:
        self._started.wait()
        self._seat.kill()

    def _receive(self, message: bytes) -> None:
        for each in self._back.passed(message):
            self._on_message(each)

    def _end(self, why: str) -> None:
        self._on_end(why)
        for each in self._back.late:
            self._on_message(each)

"""Reads a text from left to right, whole or piece by piece, and puts placeholders in the place of what detectors find."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from llmasos_guard_privacy.detector import CONTEXT, Detector, run
from llmasos_guard_privacy.kinds import KINDS
from llmasos_guard_privacy.plain import asks, plain_end
from llmasos_hookspecs import Block


class Replaced(Protocol):
    """Says what stands in the place of data."""

    def __call__(self, kind: str, value: str, whole: bool) -> str:
        """``whole``: all of the data is in ``value``."""
        ...


class Scan:
    """One text on its way. At each place the detector whose data begins first decides, of several the one whose data is longest.

    Nothing is released before every detector has decided about it; ``Detector`` says why the decisions do not depend on the pieces.
    """

    def __init__(self, detectors: Sequence[Detector], replaced: Replaced | None, before: str = "") -> None:
        """``replaced``: None blocks what holds data. ``before``: what stands before the text, and is not released."""
        self._detectors = detectors
        self._replaced = replaced
        self._text = before
        self._place = len(before)  # what stands before it has been decided
        self._dropped: re.Pattern[str] | None = None  # data as long as its detector looks: what goes on of it belongs to it
        self._known: dict[Detector, tuple[int, int]] = {}
        self._asked = asks(before)

    def push(self, piece: str) -> str | Block:
        """What may be shown now."""
        self._text += piece
        if not self._asked and self._dropped is None and (end := plain_end(self._text, self._place)) >= 0:
            released = self._text[self._place : end]
            self._place = end
            self._known = {}
            self._forget()
            return released
        found = self._read(final=False)
        self._asked = asks(self._text)
        return found

    def end(self) -> str | Block:
        """The rest."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> str | Block:
        released: list[str] = []
        self._drop()
        self._known = {each: found for each, found in self._known.items() if found[1] >= 0}
        while self._place < len(self._text):
            detector, start, end = self._first(final=final)
            released.append(self._text[self._place : start])
            self._place = start
            if end < 0 or start == len(self._text):
                break
            if self._replaced is None:
                return Block(f"it holds {KINDS[detector.kind]}", "".join(released))
            whole = end - start < detector.limit
            released.append(self._replaced(detector.kind, self._text[start:end], whole))
            self._place = end
            if not whole:
                self._dropped = detector.rest or detector.body
                self._drop()
        self._forget()
        return "".join(released)

    def _first(self, *, final: bool) -> tuple[Detector, int, int]:
        """The detector that comes first, and its data: -1 as the end where the place is undecided."""
        found: list[tuple[int, int, Detector]] = []
        for each in self._detectors:
            known = self._known.get(each)
            if known is None or known[0] < self._place:
                known = self._known[each] = each.next(self._text, self._place, final=final)
            found.append((known[0], known[1], each))
        start = min(place for place, _, _ in found)
        here = [(end, each) for place, end, each in found if place == start]
        if any(end < 0 for end, _ in here):
            return here[0][1], start, -1
        end, detector = max(here, key=lambda each: each[0])
        return detector, start, end

    def _drop(self) -> None:
        if self._dropped is not None:
            end = run(self._dropped, self._text, self._place, len(self._text))
            self._place = end
            if end < len(self._text):
                self._dropped = None

    def _forget(self) -> None:
        """Keep what detectors may still look at."""
        gone = max(0, self._place - CONTEXT)
        length = len(self._text)
        self._text = self._text[gone:]
        self._place -= gone
        # A place at the end of the text means that nothing was found: the next piece is looked at anew.
        self._known = {each: (start - gone, end - gone) for each, (start, end) in self._known.items() if end >= 0 and start < length}

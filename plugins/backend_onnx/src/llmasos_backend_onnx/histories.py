"""The tokens of every slot, for models whose keys depend on how long a sequence has become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np

from llmasos_backend_onnx.rope import Ropes
from llmasos_backend_onnx.steps import Integers
from llmasos_hookspecs import Row

#: The phase of keys that a step left half computed.
_UNKNOWN: Final = -1


@attrs.define
class _History:
    tokens: list[int] = attrs.field(factory=list)
    phase: int = _UNKNOWN


class Histories:
    """What each slot holds and in which phase its keys were computed (see ``rope``).

    A sequence that grows past a switch, or is truncated below it, is in another phase: all its keys, and the values that follow from
    them, have to be computed again. That is done when the next token comes, so that it takes one computation however often a sequence
    was truncated before.
    """

    def __init__(self, ropes: Ropes) -> None:
        self._ropes = ropes
        self._slots: dict[int, _History] = {}

    def open(self, slot: int) -> None:
        self._slots[slot] = _History()

    def fork(self, source: int, copy: int) -> None:
        history = self._slots[source]
        self._slots[copy] = _History(list(history.tokens), history.phase)

    def close(self, slot: int) -> None:
        del self._slots[slot]

    def set(self, slot: int, position: int, tokens: Sequence[int]) -> None:
        """The slot holds the first ``position`` tokens that it held, and ``tokens`` behind them."""
        self._slots[slot].tokens[position:] = tokens

    def piece(self, position: int, end: int, row: Row) -> tuple[int, int]:
        """Where a piece of a row that begins at ``position`` of its sequence ends, ``end`` or before it, and the phase it is in.

        A prompt is in the phase of its whole length, what follows in later rows included. Generated tokens are in the phases that they
        would have one by one, so that several at once get the logits of each by itself.
        """
        if not row.generated:
            return end, self._ropes.phase(max(row.known, row.position + len(row.tokens)))
        phase, switches = self._ropes.phase(max(row.known, position + 1)), self._ropes.switches
        return (min(end, switches[phase]) if phase < len(switches) else end), phase

    def outdated(self, slot: int, phase: int, so_far: Integers) -> Integers:
        """The tokens whose keys must be computed again before the slot goes on in ``phase``; ``so_far``: of this step, those that follow
        the tokens that it held before. The keys count as half computed until ``computed`` is called."""
        history = self._slots[slot]
        if history.phase == phase:
            return so_far[:0]
        history.phase = _UNKNOWN
        return np.concatenate((np.array(history.tokens, dtype=np.int64), so_far))

    def computed(self, slot: int, phase: int) -> None:
        """All keys of a slot are of a phase."""
        self._slots[slot].phase = phase

"""The tokens of every slot, for models whose keys depend on how long a sequence has become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np

from llmasos_backend_onnx.rope import Ropes
from llmasos_backend_onnx.steps import Integers
from llmasos_hookspecs import Row

#: The phase of keys that a failed step left partly recomputed.
_UNKNOWN: Final = -1


@attrs.define
class _History:
    tokens: list[int] = attrs.field(factory=list)
    phase: int = _UNKNOWN


class Histories:
    """The tokens of each slot and the phase in which its keys were computed (see ``rope``).

    A sequence that grows past a switch, or is truncated below it, enters another phase: all its keys, and the values that depend on them,
        must
    be recomputed. This happens at the next token, so repeated truncations cost one recomputation.
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
        """Record that the slot holds its first ``position`` tokens and then ``tokens``."""
        self._slots[slot].tokens[position:] = tokens

    def piece(self, position: int, end: int, row: Row) -> tuple[int, int]:
        """The end (at most ``end``) and the phase of the piece of a row that begins at ``position`` of its sequence.

        A prompt is in the phase of its whole length, later chunks included. Generated tokens are in the phases that they have when computed
        one at a time, so that several in one row get the same logits.
        """
        if not row.generated:
            return end, self._ropes.phase(max(row.known, row.position + len(row.tokens)))
        phase, switches = self._ropes.phase(max(row.known, position + 1)), self._ropes.switches
        return (min(end, switches[phase]) if phase < len(switches) else end), phase

    def outdated(self, slot: int, phase: int, so_far: Integers) -> Integers:
        """The tokens whose keys must be recomputed before the slot continues in ``phase``. ``so_far``: tokens of this step that are already
        computed. The keys count as partly recomputed until ``computed`` is called."""
        history = self._slots[slot]
        if history.phase == phase:
            return so_far[:0]
        history.phase = _UNKNOWN
        return np.concatenate((np.array(history.tokens, dtype=np.int64), so_far))

    def computed(self, slot: int, phase: int) -> None:
        """Record that all keys of a slot belong to ``phase``."""
        self._slots[slot].phase = phase

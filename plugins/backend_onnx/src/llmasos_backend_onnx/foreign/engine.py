"""The engine over an exported decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmasos_backend_onnx import forks
from llmasos_backend_onnx.foreign.sequences import Sequences
from llmasos_backend_onnx.steps import Floats, check_length, check_room, checked_tokens
from llmasos_hookspecs import EngineFailed, EngineInfo, Row

_SHUT_DOWN: Final = "The engine was shut down; load the model again."

forks.register()


class ExportedEngine:
    """Implements ``Engine``: validates the rows of a step and delegates the computation to ``sequences``.

    Args:
        kv_tokens: most tokens of all slots together within the memory limit; None: no bound.
    """

    def __init__(self, info: EngineInfo, sequences: Sequences, *, kv_tokens: int | None) -> None:
        self._info = info
        self._held: Sequences | None = sequences
        self._kv_tokens = kv_tokens

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._sequences().open()

    def step(self, rows: Sequence[Row]) -> list[Floats]:
        sequences = self._sequences()
        tokens = checked_tokens(rows, sequences.length, self._info)
        check_room(self._kv_tokens, sequences.tokens, sum(map(len, tokens)))
        return sequences.compute(rows, tokens)

    def truncate(self, slot: int, length: int) -> None:
        sequences = self._sequences()
        check_length(slot, sequences.length(slot), length)
        sequences.truncate(slot, length)

    def fork(self, slot: int) -> int:
        sequences = self._sequences()
        check_room(self._kv_tokens, sequences.tokens, sequences.length(slot))
        return sequences.fork(slot)

    def close(self, slot: int) -> None:
        if self._held is not None:
            self._held.close(slot)

    def shutdown(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def _sequences(self) -> Sequences:
        if self._held is None:
            raise EngineFailed(_SHUT_DOWN)
        return self._held

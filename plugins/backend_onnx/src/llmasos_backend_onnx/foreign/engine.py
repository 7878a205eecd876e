"""The engine over an exported decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from llmasos_backend_onnx import forks
from llmasos_backend_onnx.foreign.sequences import Floats, Integers, Sequences
from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, Row

_SHUT_DOWN: Final = "The engine was shut down; load the model again."

forks.register()


class ExportedEngine:
    """Implements ``Engine``: checks what is asked, and leaves the computing to ``sequences``.

    Args:
        kv_tokens: tokens of all slots together that memory holds; None: as many as fit.
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
        return sequences.compute(rows, self._checked(sequences, rows))

    def truncate(self, slot: int, length: int) -> None:
        sequences = self._sequences()
        held = sequences.length(slot)
        if not 0 <= length <= held:
            raise ValueError(f"Slot {slot} holds {held} tokens and cannot be truncated to {length}.")
        sequences.truncate(slot, length)

    def fork(self, slot: int) -> int:
        sequences = self._sequences()
        self._reserve(sequences, sequences.length(slot))
        return sequences.fork(slot)

    def close(self, slot: int) -> None:
        if self._held is not None:
            self._held.close(slot)

    def shutdown(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def _checked(self, sequences: Sequences, rows: Sequence[Row]) -> list[Integers]:
        """The tokens of every row, if all of them can be computed."""
        checked: list[Integers] = []
        seen: set[int] = set()
        for row in rows:
            held = sequences.length(row.slot)
            if row.slot in seen:
                raise ValueError(f"Slot {row.slot} stands twice in one step.")
            seen.add(row.slot)
            if row.position != held:
                raise ValueError(f"Slot {row.slot} holds {held} tokens, and the row says {row.position}.")
            tokens = np.asarray(row.tokens, dtype=np.int64)
            if tokens.ndim != 1 or not len(tokens):
                raise ValueError(f"The row of slot {row.slot} has no tokens; a row computes 1 or more.")
            if tokens.min() < 0 or tokens.max() >= self._info.vocab_size:
                raise ValueError(f"The row of slot {row.slot} has a token outside the vocabulary of {self._info.vocab_size}.")
            if held + len(tokens) > self._info.context_length:
                raise CapacityExceeded(
                    f"Slot {row.slot} holds {held} tokens, and {len(tokens)} more pass the context length of {self._info.context_length}."
                )
            checked.append(tokens)
        self._reserve(sequences, sum(map(len, checked)))
        return checked

    def _reserve(self, sequences: Sequences, tokens: int) -> None:
        if self._kv_tokens is not None and sequences.tokens + tokens > self._kv_tokens:
            raise CapacityExceeded(
                f"The memory limit holds {self._kv_tokens} tokens of keys and values, {sequences.tokens} are held, and {tokens} more are "
                "asked for; close a slot, take a smaller step, or raise the limit."
            )

    def _sequences(self) -> Sequences:
        if self._held is None:
            raise EngineFailed(_SHUT_DOWN)
        return self._held

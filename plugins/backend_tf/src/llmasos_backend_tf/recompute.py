"""An engine for models that keep no KV cache: each step computes all that came before as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_backend_tf.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineInfo, EngineLimits, ResourceError, Row

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

NOTE: Final = "The model keeps no KV cache, so each step computes all the tokens before it again; export a checkpoint to decode faster."


@attrs.frozen(kw_only=True)
class Model:
    """A function over whole sequences.

    Attributes:
        logits: called with tokens and mask, both int32 [B, T], the mask 0 for padding on the right; gives float32 [B, T, vocab].
        rows: the B it takes; None for any.
        length: the T it takes; None for any.
        weight_bytes: of its weights.
        context_length: tokens it was made for, where the files say so.
    """

    logits: Callable[[Tokens, Tokens], Any]
    vocab_size: int
    weight_bytes: int
    rows: int | None = None
    length: int | None = None
    context_length: int | None = None

    def engine(self, limits: EngineLimits, notes: Sequence[str], default_context: int) -> RecomputingEngine:
        """The engine, within the limits. Raises ``ResourceError`` where the weights alone pass the memory budget."""
        if limits.memory is not None and self.weight_bytes > limits.memory:
            raise ResourceError(
                f"The weights take {self.weight_bytes / 2**20:.0f} MiB, over the budget of {limits.memory / 2**20:.0f} MiB; allow more."
            )
        bounds = [bound for bound in (limits.context_length, self.length, self.context_length) if bound is not None]
        info = EngineInfo(
            vocab_size=self.vocab_size,
            context_length=min(bounds, default=default_context),
            max_sequences=limits.max_sequences,
            weight_bytes=self.weight_bytes,
            kv_bytes_per_token=0,
            features=frozenset({"fork", "batch"}) if self.rows is None else frozenset({"fork"}),
            notes=(*notes, NOTE),
        )
        return RecomputingEngine(self, info)


class RecomputingEngine:
    """Slots hold their tokens."""

    def __init__(self, model: Model, info: EngineInfo) -> None:
        self._model = model
        self._info = info
        self._slots: SlotTable[int] = SlotTable(info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[Logits]:
        self._slots.check(rows)
        results: list[Logits] = [np.zeros((0, self._info.vocab_size), np.float32) for _ in rows]
        asked = [i for i, row in enumerate(rows) if row.want != "none"]
        size = self._model.rows or len(asked) or 1
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            out = self._compute([[*self._slots[rows[i].slot].held, *rows[i].tokens] for i in part])
            for i, logits in zip(part, out, strict=False):
                end = rows[i].position + len(rows[i].tokens)
                results[i] = logits[end - 1 : end] if rows[i].want == "last" else logits[rows[i].position : end]
        for row in rows:
            slot = self._slots[row.slot]
            slot.held.extend(row.tokens)
            slot.length = len(slot.held)
        return results

    def truncate(self, slot: int, length: int) -> None:
        held = self._slots[slot]
        if not 0 <= length <= held.length:
            raise ValueError(f"Slot {slot} holds {held.length} tokens and cannot be cut to {length}.")
        del held.held[length:]
        held.length = length

    def fork(self, slot: int) -> int:
        source = self._slots[slot]
        copy = self._slots.open()
        self._slots[copy].held, self._slots[copy].length = list(source.held), source.length
        return copy

    def close(self, slot: int) -> None:
        self._slots.close(slot)

    def shutdown(self) -> None:
        self._slots.clear()

    def _compute(self, sequences: list[list[int]]) -> Logits:
        longest = max(len(tokens) for tokens in sequences)
        # Powers of two, so that a traced function meets few shapes; a causal model does not see the padding on the right.
        length = self._model.length or max(8, 1 << (longest - 1).bit_length())
        tokens = np.zeros((self._model.rows or len(sequences), length), np.int32)
        mask = np.zeros_like(tokens)
        for i, sequence in enumerate(sequences):
            tokens[i, : len(sequence)] = sequence
            mask[i, : len(sequence)] = 1
        try:
            out: Logits = np.asarray(self._model.logits(tokens, mask), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise CapacityExceeded("TensorFlow has no memory for this step; make it smaller.") from error
        return out

"""An engine for models without a KV cache: each step recomputes the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_backend_tf.framework import first_line
from llmasos_decoder_kit.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, Row

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

#: Shortest padded length, so that all short texts have one shape.
_SHORTEST: Final = 8


@attrs.frozen(kw_only=True, eq=False)
class Model:
    """A function over whole sequences.

    Attributes:
        path: of its files, for what is said about it.
        call: called with tokens, mask and positions, all int32 [B, T], the mask 0 for padding on the right; gives float [B, T, vocab], or
            [B, 1, vocab] where the model gives the last token's logits only.
        rows: the fixed B; None for any.
        length: the fixed T; None for any.
        weight_bytes: bytes of its weights.
        context_length: its context length, if the files state one.
        rounded: whether anything in it is rounded to fewer bits than float32.
    """

    path: Path
    call: Callable[[Tokens, Tokens, Tokens], Any]
    weight_bytes: int
    rows: int | None = None
    length: int | None = None
    context_length: int | None = None
    rounded: bool = False

    def run(self, sequences: Sequence[Sequence[int]], length: int) -> Logits:
        """Logits float32 [len(sequences), T or 1, vocab] of sequences padded on the right to ``length``, or to the one the model takes.

        Raises:
            CapacityExceeded: memory is short.
            EngineFailed: the model fails, or gives no logits of these tokens.
        """
        size, length = self.rows or len(sequences), self.length or length
        tokens = np.zeros((size, length), np.int32)
        mask = np.zeros_like(tokens)
        # A fixed batch is padded by repeating the last sequence.
        for i in range(size):
            sequence = sequences[min(i, len(sequences) - 1)]
            tokens[i, : len(sequence)] = sequence
            mask[i, : len(sequence)] = 1
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        try:
            out: Logits = np.asarray(self.call(tokens, mask, positions), np.float32)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise CapacityExceeded("TensorFlow has no memory for this step; make it smaller.") from error
        except Exception as error:  # an exported model may raise anything
            raise EngineFailed(f"{self.path} does not compute {size} sequences of {length} tokens ({first_line(error)}).") from error
        check_shape(out, size, length, self.path)
        return out[: len(sequences)]


def check_shape(logits: Logits, rows: int, length: int, path: Path) -> None:
    """Raise ``EngineFailed`` if logits are not [rows, length or 1, vocab]: a graph may give any shape, and another one each time."""
    if logits.ndim != 3 or logits.shape[0] != rows or logits.shape[1] not in (1, length) or logits.shape[2] < 2:
        raise EngineFailed(
            f"{path} gives logits of the shape {logits.shape} for {rows} sequence{'' if rows == 1 else 's'} of {length} tokens, and "
            "[batch, tokens, vocabulary] is due."
        )


@attrs.frozen(kw_only=True)
class Form:
    """What a model computes correctly, as tested at load.

    Attributes:
        vocab_size: width of its logits.
        context_length: the longest supported sequence.
        last_only: it returns logits of the last token only.
        padded: padding on the right does not change the logits.
        together: sequences of a batch do not change one another's logits.
    """

    vocab_size: int
    context_length: int
    last_only: bool = False
    padded: bool = False
    together: bool = False


@attrs.frozen
class _Job:
    """One sequence to compute; its logits from token ``start`` on are the result of row ``row`` of the step."""

    row: int
    tokens: Sequence[int]
    start: int


class RecomputingEngine:
    """Slots hold their tokens."""

    def __init__(self, model: Model, form: Form, info: EngineInfo) -> None:
        self._model = model
        self._form = form
        self._info = info
        self._slots: SlotTable[int] = SlotTable(info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[Logits]:
        self._slots.check(rows)
        parts: list[list[Logits]] = [[np.zeros((0, self._form.vocab_size), np.float32)] for _ in rows]
        for batch in self._batches([job for i, row in enumerate(rows) for job in self._jobs(i, row)]):
            out = self._model.run([job.tokens for job in batch], self._padded(max(len(job.tokens) for job in batch)))
            for job, logits in zip(batch, out, strict=True):
                parts[job.row].append(logits if self._form.last_only else logits[job.start : len(job.tokens)])
        for row in rows:
            slot = self._slots[row.slot]
            slot.held.extend(row.tokens)
            slot.length = len(slot.held)
        return [np.concatenate(part) for part in parts]

    def truncate(self, slot: int, length: int) -> None:
        del self._slots.truncate(slot, length).held[length:]

    def fork(self, slot: int) -> int:
        return self._slots.fork(slot)

    def close(self, slot: int) -> None:
        self._slots.close(slot)

    def shutdown(self) -> None:
        self._slots.clear()

    def _jobs(self, index: int, row: Row) -> Iterator[_Job]:
        tokens = [*self._slots[row.slot].held, *row.tokens]
        if row.want == "last":
            yield _Job(index, tokens, len(tokens) - 1)
        elif row.want == "all" and not self._form.last_only:
            yield _Job(index, tokens, row.position)
        elif row.want == "all":
            yield from (_Job(index, tokens[: end + 1], end) for end in range(row.position, len(tokens)))

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[Sequence[_Job]]:
        """The jobs, grouped into runs."""
        groups: dict[int, list[_Job]] = {}
        for job in jobs:
            groups.setdefault(0 if self._form.padded else len(job.tokens), []).append(job)
        for group in groups.values():
            size = (self._model.rows or len(group)) if self._form.together else 1
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _padded(self, longest: int) -> int:
        """The padded length: a power of two, so that a traced function sees few shapes, but at most the model's context length."""
        if not self._form.padded:
            return longest
        return max(longest, min(max(_SHORTEST, 1 << (longest - 1).bit_length()), self._form.context_length))

"""The engine over the decoder graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_backend_tf.decoder import Batch, Decoder, Want
from llmasos_backend_tf.kv_pool import BLOCK, KVPool
from llmasos_decoder_kit.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineInfo, Row

Logits = npt.NDArray[np.float32]

#: Length buckets of padded rows, besides the prefill chunk; they keep the number of shapes small.
_LENGTHS: Final = (1, 8, 32, 128)


class TensorFlowEngine:
    """Implements ``Engine``: a decoder with a KV cache. Rows with the same length bucket and ``want`` are computed together."""

    def __init__(self, decoder: Decoder, pool: KVPool, info: EngineInfo, prefill_chunk: int) -> None:
        self._decoder = decoder
        self._pool = pool
        self._info = info
        self._chunk = prefill_chunk
        self._slots: SlotTable[int] = SlotTable(info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[Logits]:
        self._slots.check(rows)
        self._reserve(rows)
        try:
            results = self._compute(rows, self._turn_over(rows))
        except tf.errors.ResourceExhaustedError as error:
            raise CapacityExceeded("TensorFlow has no memory for this step; make it smaller.") from error
        for row in rows:
            slot = self._slots[row.slot]
            slot.length = row.position + len(row.tokens)
            if self._decoder.switch is not None:
                slot.tokens[row.position :] = row.tokens
        empty = np.zeros((0, self._info.vocab_size), np.float32)
        return [np.concatenate(parts) if parts else empty for parts in results]

    def truncate(self, slot: int, length: int) -> None:
        held = self._slots.truncate(slot, length).held
        keep = -(-length // BLOCK)
        self._pool.give_back(held[keep:])
        del held[keep:]

    def fork(self, slot: int) -> int:
        source = self._slots[slot]
        copy = self._slots.open()
        blocks = source.held[: -(-source.length // BLOCK)]
        if blocks:
            self._slots[copy].held = self._take(len(blocks))
            self._pool.copy(blocks, self._slots[copy].held)
        self._slots[copy].length = source.length
        self._slots[copy].tokens, self._slots[copy].long = list(source.tokens), source.long
        return copy

    def close(self, slot: int) -> None:
        self._pool.give_back(self._slots.close(slot).held)

    def shutdown(self) -> None:
        self._slots.clear()
        self._pool.free()

    def _take(self, count: int) -> list[int]:
        try:
            return self._pool.take(count)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise CapacityExceeded(f"There is no memory for {count} more blocks of {BLOCK} tokens; close a slot.") from error

    def _reserve(self, rows: Sequence[Row]) -> None:
        for row in rows:
            held = self._slots[row.slot].held
            missing = -(-(row.position + len(row.tokens)) // BLOCK) - len(held)
            if missing > 0:
                held.extend(self._take(missing))

    def _turn_over(self, rows: Sequence[Row]) -> frozenset[int]:
        """The slots whose sequences are longer than the decoder's switch after this step.

        A slot that crosses the switch is recomputed, because all its positions get other rotations.
        """
        switch = self._decoder.switch
        if switch is None:
            return frozenset()
        long = frozenset(row.slot for row in rows if row.position + len(row.tokens) > switch)
        changed = [row for row in rows if self._slots[row.slot].long != (row.slot in long)]
        for row in changed:
            self._slots[row.slot].long = None  # unknown until the recomputation succeeds
        self._compute([Row(row.slot, self._slots[row.slot].tokens, 0, "none") for row in changed if row.position], long)
        for row in changed:
            self._slots[row.slot].long = row.slot in long
        return long

    def _compute(self, rows: Sequence[Row], long: frozenset[int]) -> list[list[Logits]]:
        """Logits of the rows' tokens, in chunks; writes their keys and values. Slots in ``long`` are past the switch."""
        results: list[list[Logits]] = [[] for _ in rows]
        offsets = [0] * len(rows)
        while True:
            pending = [i for i, row in enumerate(rows) if offsets[i] < len(row.tokens)]
            if not pending:
                return results
            for (length, want), members in self._groups(rows, offsets, pending).items():
                for part in self._parts(members, length):
                    batch, counts = self._batch([rows[i] for i in part], [offsets[i] for i in part], length, long)
                    out = self._decoder.run(batch, want).numpy()
                    for at, (i, count) in enumerate(zip(part, counts, strict=True)):
                        if want != "none":
                            results[i].append(out[at : at + 1] if want == "last" else out[at, :count])
                for i in members:
                    offsets[i] = min(len(rows[i].tokens), offsets[i] + length)

    def _groups(self, rows: Sequence[Row], offsets: list[int], pending: list[int]) -> dict[tuple[int, Want], list[int]]:
        """Rows grouped by length bucket and by the ``want`` of this chunk."""
        groups: dict[tuple[int, Want], list[int]] = {}
        for i in pending:
            left = len(rows[i].tokens) - offsets[i]
            length = next((size for size in _LENGTHS if left <= size <= self._chunk), self._chunk)
            asked = rows[i].want
            assert asked != "hidden", "only engines with the feature embeddings are asked for hidden states"
            want: Want = asked
            if want == "last" and left > length:
                want = "none"
            groups.setdefault((length, want), []).append(i)
        return groups

    def _parts(self, members: list[int], length: int) -> list[list[int]]:
        """A group split into runs of bounded size."""
        most = max(1, self._chunk // length)
        return [members[start : start + most] for start in range(0, len(members), most)]

    def _batch(self, rows: list[Row], offsets: list[int], length: int, long: frozenset[int]) -> tuple[Batch, list[int]]:
        """The rows' next ``length`` tokens, padded to a power of two of rows."""
        counts = [min(length, len(row.tokens) - offset) for row, offset in zip(rows, offsets, strict=True)]
        size = _power_of_two(len(rows))
        ends = [row.position + offset + count for row, offset, count in zip(rows, offsets, counts, strict=True)]
        blocks = -(-max(ends) // BLOCK)
        tokens = np.zeros((size, length), np.int32)
        positions = np.zeros((size, length), np.int32)
        turns = np.zeros((size, length), np.int32)
        table = np.zeros((size, blocks), np.int64)
        block = np.zeros((size, length), np.int64)
        offset_in_block = np.zeros((size, length), np.int64)
        for i, (row, offset, count) in enumerate(zip(rows, offsets, counts, strict=True)):
            held = np.asarray(self._slots[row.slot].held, np.int64)
            at = np.arange(row.position + offset, row.position + offset + count)
            tokens[i, :count] = row.tokens[offset : offset + count]
            positions[i, :count] = at
            turns[i, :count] = at + (self._decoder.positions if row.slot in long else 0)
            table[i, : min(blocks, len(held))] = held[:blocks]
            block[i, :count] = held[at // BLOCK]
            offset_in_block[i, :count] = at % BLOCK
        heads = self._pool.head_rows(block)  # [B, 2 * kv_heads, T]
        writes = np.stack([heads.transpose(0, 2, 1), np.broadcast_to(offset_in_block[:, :, None], heads.transpose(0, 2, 1).shape)], -1)
        last = np.zeros(size, np.int32)
        last[: len(rows)] = np.array(counts) - 1
        batch = Batch(
            tokens=tokens,
            positions=positions,
            turns=turns,
            reads=self._pool.head_rows(table),
            writes=writes.astype(np.int32),
            last=last,
        )
        return batch, counts


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()

"""The engine: rows of a step as runs of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx import forks
from llmasos_backend_onnx.kv_cache import KVCache
from llmasos_backend_onnx.session import DecoderSession
from llmasos_backend_onnx.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, Row

Floats = npt.NDArray[np.float32]

_SHUT_DOWN: Final = "The engine was shut down; load the model again."

forks.register()


class OnnxEngine:
    """Prefills each sequence by itself, in chunks, straight into its row of the KV cache, then decodes all others as one batch.

    That is what GroupQueryAttention computes without padding. A row gets the same logits alone and in company, to the bit; in chunks of
    other sizes a prompt gets them to within float32's rounding.
    """

    def __init__(self, info: EngineInfo, session: DecoderSession, cache: KVCache, *, prefill_chunk: int, kv_tokens: int | None) -> None:
        self._info = info
        self._session: DecoderSession | None = session
        self._cache = cache
        self._slots = SlotTable(cache, info.weight_bytes)
        self._chunk = prefill_chunk
        self._kv_tokens = kv_tokens

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        self._running()
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[Floats]:
        session = self._running()
        tokens = self._checked(rows)
        results: list[Floats] = [np.empty((0, self._info.vocab_size), dtype=np.float32)] * len(rows)
        single = {row.slot: index for index, row in enumerate(rows) if len(tokens[index]) == 1}
        # Rows move before anything is computed: a move copies as many tokens as a slot is known to hold, and what is prefilled in this
        # step counts only at its end.
        runs = self._slots.neighbours(list(single)) if single else ()
        for index, row in enumerate(rows):
            if row.slot not in single:
                results[index] = self._prefill(session, row, tokens[index])
        for run in runs:
            indices = [single[slot] for slot in run]
            lengths = np.array([rows[index].position for index in indices], dtype=np.int32)
            logits = session.decode(self._slots.row(run[0]), np.array([tokens[index][0] for index in indices]), lengths)
            for place, index in enumerate(indices):
                if rows[index].want != "none":
                    results[index] = logits[place : place + 1]
        # Only now: after an error every slot still has the length from before the step.
        for row in rows:
            self._slots.set_length(row.slot, row.position + len(row.tokens))
        return results

    def truncate(self, slot: int, length: int) -> None:
        self._running()
        held = self._slots.length(slot)
        if not 0 <= length <= held:
            raise ValueError(f"Slot {slot} holds {held} tokens and cannot be truncated to {length}.")
        self._slots.set_length(slot, length)

    def fork(self, slot: int) -> int:
        self._running()
        self._reserve(self._slots.length(slot))
        return self._slots.fork(slot)

    def close(self, slot: int) -> None:
        if self._session is not None:
            self._slots.close(slot)

    def shutdown(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
            self._cache.close()

    def _prefill(self, session: DecoderSession, row: Row, tokens: npt.NDArray[np.int64]) -> Floats:
        asked = {"last": 1, "all": len(tokens), "none": 0}[row.want]
        try:
            logits = np.empty((asked, self._info.vocab_size), dtype=np.float32)
        except MemoryError as error:
            raise CapacityExceeded(f"No memory for the logits of {asked} tokens; ask for fewer in a step.") from error
        place, first = self._slots.row(row.slot), len(tokens) - asked
        for start in range(0, len(tokens), self._chunk):
            end = min(start + self._chunk, len(tokens))
            part = logits[max(0, start - first) : max(0, end - first)]
            session.prefill(place, tokens[start:end], row.position + start, part)
        return logits

    def _checked(self, rows: Sequence[Row]) -> list[npt.NDArray[np.int64]]:
        """The tokens of every row, if all of them can be computed."""
        checked = []
        seen: set[int] = set()
        for row in rows:
            held = self._slots.length(row.slot)
            if row.slot in seen:
                raise ValueError(f"Slot {row.slot} stands twice in one step.")
            seen.add(row.slot)
            if row.position != held:
                raise ValueError(f"Slot {row.slot} holds {held} tokens, and the row says {row.position}.")
            tokens = np.asarray(row.tokens, dtype=np.int64)
            if tokens.ndim != 1 or not len(tokens):
                raise ValueError(f"The row of slot {row.slot} has no tokens; a row computes 1 or more.")
            if tokens.min() < 0 or tokens.max() >= self._info.vocab_size:
                raise ValueError(
                    f"The row of slot {row.slot} has a token outside the vocabulary of {self._info.vocab_size}: "
                    f"{int(tokens.min())} .. {int(tokens.max())}."
                )
            if held + len(tokens) > self._info.context_length:
                raise CapacityExceeded(
                    f"Slot {row.slot} holds {held} tokens, and {len(tokens)} more pass the context length of {self._info.context_length}."
                )
            checked.append(tokens)
        self._reserve(sum(map(len, checked)))
        return checked

    def _reserve(self, tokens: int) -> None:
        if self._kv_tokens is not None and self._slots.tokens + tokens > self._kv_tokens:
            raise CapacityExceeded(
                f"The memory limit holds {self._kv_tokens} tokens of keys and values, {self._slots.tokens} are held, and {tokens} more are "
                "asked for; close a slot, take a smaller step, or raise the limit."
            )

    def _running(self) -> DecoderSession:
        if self._session is None:
            raise EngineFailed(_SHUT_DOWN)
        return self._session

"""The engine: rows of a step as runs of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from llmasos_backend_onnx import forks
from llmasos_backend_onnx.histories import Histories
from llmasos_backend_onnx.kv_cache import KVCache
from llmasos_backend_onnx.layout import Part, runs
from llmasos_backend_onnx.session import DecoderSession
from llmasos_backend_onnx.slots import SlotTable
from llmasos_backend_onnx.steps import Floats, Integers, asked, check_length, check_room, checked_tokens
from llmasos_hookspecs import EngineFailed, EngineInfo, Row

#: Places of a run's attention for each token it may have: filler is cheaper to compute than to do without by another run.
_FILL: Final = 4
_SHUT_DOWN: Final = "The engine was shut down; load the model again."

forks.register()


class OnnxEngine:
    """Computes the prompts of a step together, and what follows prompts together, straight into their rows of the KV cache.

    A token that follows a prompt gets the same logits, to the bit, alone and in company. With the feature ``drafts`` it gets them one
    at a time or several (``Row.generated``) too, and a prompt gets the same in chunks of whatever size; it gets those of the tokens that
    follow one where one session computes both, which is wherever quantised weights do not take a prompt's activations in more bits.

    Args:
        histories: where keys depend on how long their sequence has become; they are computed again where that changes them.
    """

    def __init__(
        self,
        info: EngineInfo,
        session: DecoderSession,
        cache: KVCache,
        *,
        prefill_chunk: int,
        kv_tokens: int | None,
        histories: Histories | None = None,
    ) -> None:
        self._info = info
        self._session: DecoderSession | None = session
        self._cache = cache
        self._slots = SlotTable(cache, info.weight_bytes)
        self._chunk = prefill_chunk
        self._kv_tokens = kv_tokens
        self._histories = histories

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        self._running()
        slot = self._slots.open()
        if self._histories is not None:
            self._histories.open(slot)
        return slot

    def step(self, rows: Sequence[Row]) -> list[Floats]:
        session = self._running()
        tokens = checked_tokens(rows, self._slots.length, self._info)
        check_room(self._kv_tokens, self._slots.tokens, sum(map(len, tokens)))
        session.begin_step()
        results: list[Floats] = [np.empty((0, self._info.vocab_size), dtype=np.float32)] * len(rows)
        of_prompt = [len(row.tokens) > 1 and not row.generated for row in rows]
        for compute, kind in ((session.prefill, True), (session.decode, False)):
            self._compute(compute, rows, tokens, [index for index, found in enumerate(of_prompt) if found is kind], results)
        # Only now: after an error every slot still has the length from before the step.
        for row in rows:
            self._slots.set_length(row.slot, row.position + len(row.tokens))
            if self._histories is not None:
                self._histories.set(row.slot, row.position, row.tokens)
        return results

    def truncate(self, slot: int, length: int) -> None:
        self._running()
        check_length(slot, self._slots.length(slot), length)
        self._slots.set_length(slot, length)
        if self._histories is not None:
            self._histories.set(slot, length, ())

    def fork(self, slot: int) -> int:
        self._running()
        check_room(self._kv_tokens, self._slots.tokens, self._slots.length(slot))
        copy = self._slots.fork(slot)
        if self._histories is not None:
            self._histories.fork(slot, copy)
        return copy

    def close(self, slot: int) -> None:
        if self._session is not None:
            self._slots.close(slot)
            if self._histories is not None:
                self._histories.close(slot)

    def shutdown(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
            self._cache.close()

    def _compute(
        self,
        compute: Callable[[Sequence[Part]], Floats],
        rows: Sequence[Row],
        tokens: Sequence[Integers],
        indices: Sequence[int],
        results: list[Floats],
    ) -> None:
        """Fill in the results of some rows, computed together as far as a run has room."""
        begun = dict.fromkeys(indices, 0)
        while begun:
            parts: dict[int, Part] = {}
            for index, start in begun.items():
                parts[index] = self._part(rows[index], tokens[index], start)
            index_of = {part.row: index for index, part in parts.items()}
            for run in runs(list(parts.values()), tokens=self._chunk, places=_FILL * self._chunk):
                logits, at = compute(run), 0
                for part in run:
                    if part.wanted:
                        index = index_of[part.row]
                        found = logits[at : at + part.wanted]
                        results[index] = np.concatenate((results[index], found)) if len(part.tokens) < len(tokens[index]) else found
                        at += part.wanted
            ends = {index: start + len(parts[index].tokens) for index, start in begun.items()}
            begun = {index: end for index, end in ends.items() if end < len(tokens[index])}

    def _part(self, row: Row, tokens: Integers, start: int) -> Part:
        """The next tokens of a row from ``start`` on; what they follow is computed again where its keys are of another phase."""
        end, phase, place = min(start + self._chunk, len(tokens)), 0, self._slots.row(row.slot)
        if self._histories is not None:
            position = row.position
            end, phase = self._histories.piece(position + start, position + end, row)
            end -= position
            self._recompute(self._histories, row.slot, phase, tokens[:start])
        wanted = max(0, min(end - start, asked(row) - len(tokens) + end))
        return Part(row=place, tokens=tokens[start:end], length=row.position + start, wanted=wanted, phase=phase)

    def _recompute(self, histories: Histories, slot: int, phase: int, so_far: Integers) -> None:
        outdated = histories.outdated(slot, phase, so_far)
        for start in range(0, len(outdated), self._chunk):
            part = Part(row=self._slots.row(slot), tokens=outdated[start : start + self._chunk], length=start, wanted=0, phase=phase)
            self._running().prefill([part])
        histories.computed(slot, phase)

    def _running(self) -> DecoderSession:
        if self._session is None:
            raise EngineFailed(_SHUT_DOWN)
        return self._session

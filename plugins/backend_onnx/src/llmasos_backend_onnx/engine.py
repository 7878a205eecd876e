"""The engine: computes the rows of a step as runs of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx import forks
from llmasos_backend_onnx.histories import Histories
from llmasos_backend_onnx.layout import Part, runs
from llmasos_backend_onnx.session import DecoderSession
from llmasos_backend_onnx.slots import SlotTable
from llmasos_backend_onnx.steps import Floats, Integers, check_length, check_room, checked_tokens, wanted_logits
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_decoder_kit.onnx_operators import TokenDraws
from llmasos_hookspecs import EngineFailed, EngineInfo, Row

#: Padded attention positions allowed for each token of a run: computing padding is cheaper than another run.
_FILL: Final = 4
_SHUT_DOWN: Final = "The engine was shut down; load the model again."

forks.register()


class OnnxEngine:
    """Computes the prefill rows of a step in one batch and the decode rows in another, and writes keys and values into the KV cache.

    The logits of a generated token are bitwise identical regardless of the batch composition. With the feature ``drafts`` they are also
    identical whether tokens are computed one at a time or several in a row (``Row.generated``), and a prompt gives identical logits in
    chunks of any size. Prefill and decode give identical logits if one session computes both. They use two sessions if quantised layers
    round a prompt's activations to a wider format.

    Args:
        histories: the tokens of each slot, for models whose keys depend on the sequence length and must then be recomputed.
        draws: draws the tokens of rows with a ``draw``, for engines with the feature ``sampling``.
        threads: cores that draws may use.
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
        draws: TokenDraws | None = None,
        threads: int = 1,
    ) -> None:
        self._info = info
        self._session: DecoderSession | None = session
        self._cache = cache
        self._slots = SlotTable(cache, info.weight_bytes)
        self._chunk = prefill_chunk
        self._kv_tokens = kv_tokens
        self._histories = histories
        self._draws = None if draws is None else partial(draws.draw, threads=threads)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        self._running()
        slot = self._slots.open()
        if self._histories is not None:
            self._histories.open(slot)
        return slot

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        session = self._running()
        tokens = checked_tokens(rows, self._slots.length, self._info)
        check_room(self._kv_tokens, self._slots.tokens, sum(map(len, tokens)))
        session.begin_step()
        results: list[npt.NDArray[Any]] = [np.empty((0, self._info.vocab_size), dtype=np.float32)] * len(rows)
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
        results: list[npt.NDArray[Any]],
    ) -> None:
        """Compute the results of some rows, in as few runs as their bounds allow."""
        begun = dict.fromkeys(indices, 0)
        while begun:
            parts: dict[int, Part] = {}
            for index, start in begun.items():
                parts[index] = self._part(rows[index], tokens[index], start)
            index_of = {part.row: index for index, part in parts.items()}
            for run in runs(list(parts.values()), tokens=self._chunk, positions=_FILL * self._chunk):
                logits, at = compute(run), 0
                for part in run:
                    if part.wanted:
                        index = index_of[part.row]
                        found = logits[at : at + part.wanted]
                        results[index] = np.concatenate((results[index], found)) if len(part.tokens) < len(tokens[index]) else found
                        at += part.wanted
                if self._draws is not None:
                    _draw(self._draws, rows, [index_of[part.row] for part in run if part.wanted], logits, results)
            ends = {index: start + len(parts[index].tokens) for index, start in begun.items()}
            begun = {index: end for index, end in ends.items() if end < len(tokens[index])}

    def _part(self, row: Row, tokens: Integers, start: int) -> Part:
        """The next tokens of a row from ``start`` on, preceded by earlier tokens whose keys belong to another phase and are recomputed."""
        end, phase, place = min(start + self._chunk, len(tokens)), 0, self._slots.row(row.slot)
        if self._histories is not None:
            position = row.position
            end, phase = self._histories.piece(position + start, position + end, row)
            end -= position
            self._recompute(self._histories, row.slot, phase, tokens[:start])
        wanted = max(0, min(end - start, wanted_logits(row) - len(tokens) + end))
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


def _draw(
    draw_tokens: Callable[..., npt.NDArray[np.int64]],
    rows: Sequence[Row],
    indices: Sequence[int],
    logits: Floats,
    results: list[npt.NDArray[Any]],
) -> None:
    """Replace the results of the rows with a ``draw``, of those at ``indices``, by the token that is drawn; ``logits`` [n, vocab] hold all
    of these results."""
    drawn = [(index, draw) for index in indices if (draw := rows[index].draw) is not None]
    if drawn:
        of_drawn = logits if len(drawn) == len(logits) else [results[index][0] for index, _ in drawn]
        tokens = draw_tokens(of_drawn, [draw for _, draw in drawn])
        for at, (index, _) in enumerate(drawn):
            results[index] = tokens[at : at + 1]

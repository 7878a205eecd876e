"""The engine of encoder-decoders: slots that hold a source and the tokens of its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import plan_step
from llmasos_backend_torch.results import step_results
from llmasos_backend_torch.seq2seq.model import Seq2SeqModel, SourceCache
from llmasos_backend_torch.seq2seq.sources import sources_of
from llmasos_backend_torch.slots import SlotTable
from llmasos_backend_torch.stepping import check_rows, give_back, typed_errors
from llmasos_decoder_kit.encoded_media import EncodedMedia
from llmasos_hookspecs import EngineInfo, Media, ModelClosed, RequestError, Row


class Seq2SeqEngine:
    """Implements ``MediaEngine``. Positions of a slot count its source; those in the KV cache begin after it.

    The encoder's hidden states of sources are kept for later rows of the same sharer, as far as ``EngineInfo.media_bytes`` reach.
    """

    def __init__(self, model: Seq2SeqModel, info: EngineInfo) -> None:
        self.info = info
        self._model: Seq2SeqModel | None = model
        self._target_info = attrs.evolve(info, context_length=info.context_length - info.source_length)
        self._cache = KVCache(info.max_sequences, self._target_info.context_length)
        self._sources = SourceCache(info.max_sequences, info.source_length)
        self._encoded: EncodedMedia[Tensor] = EncodedMedia(info.media_bytes)
        self._device = torch.device(info.device)
        self._reader = sources_of(model.config, info.source_length, self._device, model.dtype)
        self._slots = SlotTable(info.max_sequences)  # with the lengths of targets

    def media_length(self, media: Media) -> int:
        return self._reader.length(media)

    def open(self) -> int:
        self._running()
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        model = self._running()
        rows = list(rows)
        if len({row.slot for row in rows}) < len(rows):
            raise RequestError("A slot is in the step twice; give all its tokens in one row.")
        starting = [row for row in rows if self._starts(row)]
        targets = {index: target for index, row in enumerate(rows) if (target := self._target(row)) is not None}
        check_rows(list(targets.values()), self._slots, self._target_info)
        with torch.inference_mode(), typed_errors():
            if starting:
                states = self._states(model, starting)
                cache_rows = [self._slots.get(row.slot).row for row in starting]
                model.attend_to(list(zip(cache_rows, states, strict=True)), self._sources)
            results = [np.empty((0, self.info.vocab_size), np.float32) for _ in rows]
            for index, result in zip(targets, self._forward(model, list(targets.values())), strict=True):
                results[index] = result
        # Lengths change only after success: what a failed step wrote lies past the length.
        for target in targets.values():
            self._slots.get(target.slot).length = target.position + len(target.tokens)
        return results

    def _forward(self, model: Seq2SeqModel, rows: list[Row]) -> list[npt.NDArray[Any]]:
        if not rows:
            return []
        plan = plan_step(rows, [self._slots.get(row.slot).row for row in rows], self._device)
        self._cache.reserve(plan.rows_used, plan.span)
        logits = model.forward(plan, self._cache, self._sources)
        return step_results(logits, plan, [row.draw for row in rows])

    def _states(self, model: Seq2SeqModel, rows: Sequence[Row]) -> list[Tensor]:
        """The encoder's hidden states of each row's source: those that are kept, and the others, computed together and once for each
        content and sharer."""
        found = [self._kept(row) for row in rows]
        missing: dict[tuple[str, str | int], list[int]] = {}
        for index, row in enumerate(rows):
            if found[index] is None:
                missing.setdefault((row.sharer, row.media[0].media.digest if row.sharer else row.slot), []).append(index)
        firsts = [rows[indices[0]] for indices in missing.values()]
        sources = [self._reader.tensor(row.media[0].media) for row in firsts]
        for row, states, indices in zip(firsts, model.encode(sources) if sources else (), missing.values(), strict=True):
            states = states.clone() if len(firsts) > 1 else states  # a view would keep those of the whole step
            self._encoded.add(row.sharer, row.media[0].media, states, states.nbytes)
            for index in indices:
                found[index] = states
        return [states for states in found if states is not None]

    def _kept(self, row: Row) -> Tensor | None:
        """The hidden states of a row's source, where they are kept or are the source itself."""
        media = row.media[0].media
        return self._reader.tensor(media) if self._reader.encoded(media) else self._encoded.get(row.sharer, media)

    def _starts(self, row: Row) -> bool:
        """Whether the row begins with its source. Raises ``RequestError`` where it should and does not."""
        slot = self._slots.get(row.slot)
        if row.position:
            return False
        if len(row.media) != 1 or row.media[0].start or len(row.tokens) < row.media[0].length:
            raise RequestError(f"The row of slot {row.slot} begins a sequence without the whole of one source; give it in Row.media.")
        if slot.row in self._sources.lengths:
            raise RequestError(f"Slot {row.slot} has a source already; truncate it to 0 first.")
        placed = row.media[0]
        length = self.media_length(placed.media)
        if length != placed.length:
            raise RequestError(f"The source of slot {row.slot} has {length} positions, and its place {placed.length}.")
        self._reader.check(placed.media)
        return True

    def _target(self, row: Row) -> Row | None:
        """The row as its target alone, with positions after the source; None where it ends with the source."""
        slot = self._slots.get(row.slot)
        if row.position:
            source, tokens = self._sources.lengths.get(slot.row, 0), row.tokens
            if row.position < source or not source:
                raise RequestError(f"The row of slot {row.slot} begins at {row.position}, inside its source or without one.")
            return attrs.evolve(row, position=row.position - source)
        source = row.media[0].length
        tokens = row.tokens[source:]
        if row.want == "all" or (not tokens and row.want != "none"):
            raise RequestError(f"The row of slot {row.slot} wants {row.want!r}, and a source has no logits; ask after its end.")
        return attrs.evolve(row, tokens=tokens) if tokens else None

    def truncate(self, slot: int, length: int) -> None:
        self._running()
        row = self._slots.get(slot).row
        source = self._sources.lengths.get(row, 0)
        if 0 < length < source:
            raise RequestError(f"Slot {slot} cannot be truncated to {length} tokens, within its source of {source}.")
        self._slots.truncate(slot, max(0, length - source))
        if not length:
            self._sources.lengths.pop(row, None)

    def fork(self, slot: int) -> int:
        self._running()
        source = self._slots.get(slot)
        copy = self._slots.open()
        target = self._slots.get(copy)
        length = self._sources.lengths.get(source.row, 0)
        try:
            with torch.inference_mode(), typed_errors():
                for cache, count in ((self._cache, source.length), (self._sources.kept, length)):
                    cache.reserve(target.row + 1, count)
                    cache.copy_row(source.row, target.row, count)
        except BaseException:
            self._slots.close(copy)
            raise
        target.length = source.length
        if length:
            self._sources.lengths[target.row] = length
        return copy

    def close(self, slot: int) -> None:
        self._running()
        self._sources.lengths.pop(self._slots.get(slot).row, None)
        self._slots.close(slot)

    def shutdown(self) -> None:
        self._model = None
        self._cache.clear()
        self._sources.kept.clear()
        self._encoded.clear()
        give_back(self._device)

    def _running(self) -> Seq2SeqModel:
        if self._model is None:
            raise ModelClosed("The engine was shut down; load the model again.")
        return self._model

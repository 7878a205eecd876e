"""An engine over the reference encoder-decoder: slow, exact, and without a framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import EngineInfo, Row
from llmasos_hookspecs.errors import CapacityExceeded, ContextLengthExceeded, RequestError
from llmasos_hookspecs.media import SOURCE, Media
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.encoder_decoder_model import ReferenceEncoderDecoder

#: Tokens of a source, and of a target, at most.
_LENGTH = 64


@attrs.define
class HeldTokens:
    """What a slot holds."""

    source: list[int] = attrs.field(factory=list)
    target: list[int] = attrs.field(factory=list)

    @property
    def length(self) -> int:
        return len(self.source) + len(self.target)


class ReferenceEncoderDecoderEngine:
    """A ``MediaEngine`` over ``ReferenceEncoderDecoder``, which computes each sequence anew in every step."""

    def __init__(self, checkpoint: TinyCheckpoint, limits: EngineLimits | None = None) -> None:
        limits = limits or EngineLimits()
        self.decoder = ReferenceEncoderDecoder(checkpoint)
        self.slots: dict[int, HeldTokens] = {}
        self._next = 0
        length = min(_LENGTH, (limits.context_length or 2 * _LENGTH) // 2)
        self._info = EngineInfo(
            vocab_size=checkpoint.config["vocab_size"],
            context_length=2 * length,
            max_sequences=limits.max_sequences,
            weight_bytes=sum(8 * int(np.prod(checkpoint.shape(name))) for name in checkpoint.names()),
            kv_bytes_per_token=8,
            features=frozenset({"fork", "batch", "kv_cache", "source"}),
            source_length=length,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def media_length(self, media: Media) -> int:
        if media.kind != SOURCE or media.data.dtype.kind != "i" or media.data.ndim != 1:
            raise RequestError(f"The engine reads a source of token ids, not {media.kind} of {media.data.dtype} {media.data.shape}.")
        if len(media.data) > self.info.source_length:
            raise ContextLengthExceeded(f"The source has {len(media.data)} tokens, and the engine reads {self.info.source_length}.")
        return len(media.data)

    def open(self) -> int:
        return self._hold(HeldTokens())

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        planned = [self._planned(row) for row in rows]
        if len({row.slot for row in rows}) < len(rows):
            raise RequestError("A slot appears twice in one step.")
        results = [self._results(row, held) for row, held in zip(rows, planned, strict=True)]
        self.slots.update((row.slot, held) for row, held in zip(rows, planned, strict=True))
        return results

    def _planned(self, row: Row) -> HeldTokens:
        """What the slot holds after the row."""
        held = self.slots[row.slot]
        if row.position != held.length:
            raise RequestError(f"Slot {row.slot} holds {held.length} tokens, and the row starts at {row.position}.")
        source, tokens = held.source, list(row.tokens)
        if not row.position:
            if len(row.media) != 1 or row.media[0].start or len(tokens) < row.media[0].length:
                raise RequestError("A sequence begins with the whole of one source.")
            length = self.media_length(row.media[0].media)
            source, tokens = row.media[0].media.data.tolist(), tokens[length:]
        if (row.want == "all" and not row.position) or (row.want == "last" and not tokens):
            raise RequestError("A source has no logits.")
        if not all(0 <= token < self.info.vocab_size for token in (*source, *tokens)):
            raise RequestError(f"The row of slot {row.slot} has a token outside the vocabulary.")
        target = [*held.target, *tokens]
        if len(target) > self.info.context_length - self.info.source_length:
            raise CapacityExceeded(f"The target of slot {row.slot} would pass the context.")
        return HeldTokens(source, target)

    def _results(self, row: Row, held: HeldTokens) -> npt.NDArray[Any]:
        if row.want == "none":
            return np.zeros((0, self.info.vocab_size), np.float32)
        logits = self.decoder.logits(held.source, held.target)
        return logits[-1:] if row.want == "last" else logits[-len(row.tokens) :]

    def truncate(self, slot: int, length: int) -> None:
        held = self.slots[slot]
        if 0 < length < len(held.source) or length > held.length:
            raise RequestError(f"Slot {slot} cannot be truncated to {length}.")
        kept = held.target[: max(0, length - len(held.source))]
        self.slots[slot] = HeldTokens(held.source if length else [], kept)

    def fork(self, slot: int) -> int:
        return self._hold(self.slots[slot])

    def close(self, slot: int) -> None:
        del self.slots[slot]

    def shutdown(self) -> None:
        self.slots.clear()

    def _hold(self, held: HeldTokens) -> int:
        if len(self.slots) >= self.info.max_sequences:
            raise CapacityExceeded(f"All {self.info.max_sequences} slots are open; close one first.")
        self._next += 1
        self.slots[self._next] = held
        return self._next

"""Exported models that take past keys and values and return longer ones: tests of what they compute, and their engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_backend_tf.framework import first_line
from llmasos_backend_tf.recompute import Form, Logits, Tokens, check_shape
from llmasos_backend_tf.trials import TEXT, most_error, relative_error
from llmasos_decoder_kit.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, EngineLimits, ResourceError, Row, UnsupportedModel

Array = npt.NDArray[Any]

#: Prefill chunk: tokens of a prompt in one run.
_CHUNK: Final = 256
#: Memory of a growing cache relative to its tokens: a run reads the old one and writes a new one.
_GROWING_SHARE: Final = 2

_NO_CHUNKS: Final = "The export takes one token a run behind its cache, so what a prompt adds to a conversation is computed slowly."
_NO_BATCH: Final = "The export keeps a cache of its own for each sequence, so sequences take turns."


@attrs.frozen(kw_only=True)
class CacheTensor:
    """One tensor of the cache: ``shape`` for one sequence without tokens, with 0 at ``axis``, the token axis."""

    past: str
    present: str
    shape: tuple[int, ...]
    axis: int
    dtype: Any

    @property
    def token_bytes(self) -> int:
        return int(np.prod([size for at, size in enumerate(self.shape) if at != self.axis])) * int(np.dtype(self.dtype).itemsize)

    def cut(self, array: Array, length: int) -> Array:
        """The first ``length`` tokens."""
        return array[(slice(None),) * self.axis + (slice(length),)]


@attrs.frozen(kw_only=True, eq=False)
class CachedModel:
    """A function of new tokens and the keys and values of earlier tokens.

    Attributes:
        call: tokens, positions int32 [1, S], mask int32 [1, P + S] and the cache of P tokens -> logits [1, S or 1, vocab], and the cache
            of P + S tokens.
    """

    path: Path
    call: Callable[[Tokens, Tokens, Tokens, Sequence[Array]], tuple[Any, list[Array]]]
    cache: tuple[CacheTensor, ...]
    weight_bytes: int
    rounded: bool

    def empty(self) -> list[Array]:
        return [np.zeros(tensor.shape, tensor.dtype) for tensor in self.cache]

    def run(self, tokens: Sequence[int], past: Sequence[Array]) -> tuple[Logits, list[Array]]:
        """Logits float32 [S or 1, vocab] of tokens after a cache, and the extended cache.

        Raises:
            CapacityExceeded: memory is short.
            EngineFailed: the model fails, or returns a cache of another length, or no logits of these tokens.
        """
        held = past[0].shape[self.cache[0].axis]
        end = held + len(tokens)
        ids, positions = np.array([tokens], np.int32), np.arange(held, end, dtype=np.int32)[None]
        try:
            logits, present = self.call(ids, np.ones((1, end), np.int32), positions, past)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise CapacityExceeded("TensorFlow has no memory for this step; make it smaller.") from error
        except Exception as error:  # an exported model may raise anything
            raise EngineFailed(f"{self.path} does not compute {len(tokens)} tokens behind {held} ({first_line(error)}).") from error
        for tensor, array in zip(self.cache, present, strict=True):
            due = (*tensor.shape[: tensor.axis], end, *tensor.shape[tensor.axis + 1 :])
            if array.shape != due:
                raise EngineFailed(f"{self.path} gives {tensor.present} in the shape {array.shape} for {end} tokens, and {due} is due.")
        found: Logits = np.asarray(logits, np.float32)
        check_shape(found, 1, len(tokens), self.path)
        return found[0], present


def try_cache(model: CachedModel, form: Form) -> bool:
    """Whether the model supports several tokens after its cache; it must support one.

    Raises:
        UnsupportedModel: the logits of a text in chunks differ from those of the whole text.
    """
    text = [token % form.vocab_size for token in TEXT[: form.context_length]]
    reason = ""
    for pieces in ((5, 3, 1, 1), (5, 1, 1, 1, 1, 1)):
        try:
            whole = [model.run(text[: end + 1], model.empty())[0][-1] for end in range(len(text))]
            found = _in_pieces(model, text, pieces)
        except (CapacityExceeded, EngineFailed) as failure:
            reason = str(failure)
            continue
        error = max(relative_error(logits, whole[end - 1]) for end, logits in found)
        if error <= most_error(model.rounded):
            return pieces[1] > 1
        reason = f"its logits are off by {error:.2g} of their size there"
    raise UnsupportedModel(f"{model.path} cannot go on behind its cache: {reason.rstrip('.')}; export it again.")


def _in_pieces(model: CachedModel, text: Sequence[int], pieces: Sequence[int]) -> list[tuple[int, Logits]]:
    """For each chunk of the text, its end and the logits [vocab] of its last token."""
    found: list[tuple[int, Logits]] = []
    past, at = model.empty(), 0
    for size in pieces:
        if at < len(text):
            logits, past = model.run(text[at : at + size], past)
            at = min(at + size, len(text))
            found.append((at, logits[-1]))
    return found


def load_cached(model: CachedModel, form: Form, limits: EngineLimits, notes: Sequence[str]) -> GrowingEngine:
    """The engine of a tested model. Raises ``UnsupportedModel`` as ``try_cache``, and ``ResourceError``."""
    chunks = try_cache(model, form)
    token_bytes = sum(tensor.token_bytes for tensor in model.cache)
    context = form.context_length
    if limits.memory is not None:
        room = max(0, limits.memory - model.weight_bytes) // (token_bytes * _GROWING_SHARE * limits.max_sequences)
        if room < (context if limits.context_length else 1):
            raise ResourceError(
                f"The weights take {model.weight_bytes / 2**20:.0f} MiB and {limits.max_sequences} sequences "
                f"{token_bytes * _GROWING_SHARE * limits.max_sequences} bytes a token, which a budget of "
                f"{limits.memory / 2**20:.0f} MiB cannot hold; allow more memory, or fewer sequences."
            )
        context = min(context, room)
    info = EngineInfo(
        vocab_size=form.vocab_size,
        context_length=context,
        max_sequences=limits.max_sequences,
        weight_bytes=model.weight_bytes,
        kv_bytes_per_token=token_bytes,
        features=frozenset({"fork", "kv_cache"}),
        notes=(*notes, _NO_BATCH, *([] if chunks else [_NO_CHUNKS])),
    )
    return GrowingEngine(model, info, most=_CHUNK if chunks else 1, last_only=form.last_only)


class GrowingEngine:
    """Implements ``Engine``; a slot holds the cache that the model returned last."""

    def __init__(self, model: CachedModel, info: EngineInfo, *, most: int, last_only: bool) -> None:
        self._model = model
        self._info = info
        self._most = most
        self._last_only = last_only
        self._slots: SlotTable[Array] = SlotTable(info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        slot = self._slots.open()
        self._slots[slot].held = self._model.empty()
        return slot

    def step(self, rows: Sequence[Row]) -> list[Logits]:
        self._slots.check(rows)
        # Slots change only after all rows are computed.
        computed = [self._computed(row) for row in rows]
        for row, (_, cache) in zip(rows, computed, strict=True):
            slot = self._slots[row.slot]
            slot.held, slot.length = cache, row.position + len(row.tokens)
        return [logits for logits, _ in computed]

    def truncate(self, slot: int, length: int) -> None:
        cut = self._slots.truncate(slot, length)
        cut.held = [tensor.cut(array, length) for tensor, array in zip(self._model.cache, cut.held, strict=True)]

    def fork(self, slot: int) -> int:
        return self._slots.fork(slot)  # arrays are never written to, so both slots can share them

    def close(self, slot: int) -> None:
        self._slots.close(slot)

    def shutdown(self) -> None:
        self._slots.clear()

    def _computed(self, row: Row) -> tuple[Logits, list[Array]]:
        """The logits that the row wants, and the cache after it."""
        cache = self._slots[row.slot].held
        # Several tokens without a cache are a prompt, which every model supports.
        first = 1 if self._last_only and row.want == "all" else _CHUNK if not row.position else self._most
        most = 1 if self._last_only and row.want == "all" else self._most
        found: list[Logits] = [np.zeros((0, self._info.vocab_size), np.float32)]
        at = 0
        while at < len(row.tokens):
            size = first if at == 0 else most
            logits, cache = self._model.run(row.tokens[at : at + size], cache)
            at += size
            if row.want == "all" or (row.want == "last" and at >= len(row.tokens)):
                found.append(logits if row.want == "all" else logits[-1:])
        return np.concatenate(found), cache

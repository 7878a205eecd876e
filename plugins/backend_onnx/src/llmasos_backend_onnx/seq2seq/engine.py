"""The engine over the three graphs of an exported encoder-decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from llmasos_backend_onnx import forks
from llmasos_backend_onnx.seq2seq.graphs import Signature
from llmasos_backend_onnx.steps import failure
from llmasos_decoder_kit.encoded_media import EncodedMedia
from llmasos_hookspecs import SOURCE, CapacityExceeded, ContextLengthExceeded, EngineFailed, EngineInfo, Media, RequestError, Row

Array = npt.NDArray[Any]

_SHUT_DOWN: Final = "The engine was shut down; load the model again."

forks.register()


@attrs.frozen(eq=False)
class Held:
    """What a slot holds; nothing of it is ever written to, so that forks share it.

    Attributes:
        source: tokens of the source.
        states: the encoder's hidden states [1, source, width]; None before a source was read.
        cross: keys and values of the source in each layer [1, heads, source, dim]; empty before the first token of a target.
        target: tokens of the target.
        own: their keys and values in each layer [1, heads, target, dim].
    """

    source: int = 0
    states: Array | None = None
    cross: tuple[Array, ...] = ()
    target: int = 0
    own: tuple[Array, ...] = ()

    @property
    def length(self) -> int:
        return self.source + self.target


class Seq2SeqEngine:
    """Implements ``MediaEngine``. Targets of equal length advance in one run; a row of several tokens after the first takes a run for each,
    since the graph computes one."""

    def __init__(
        self,
        encoder: ort.InferenceSession,
        first: ort.InferenceSession,
        later: ort.InferenceSession,
        signature: Signature,
        info: EngineInfo,
        *,
        source_vocab_size: int,
    ) -> None:
        self._info = info
        self._sessions: tuple[ort.InferenceSession, ...] | None = (encoder, first, later)
        self._signature = signature
        self._source_vocab_size = source_vocab_size
        self._slots: dict[int, Held] = {}
        self._encoded: EncodedMedia[Array] = EncodedMedia(info.media_bytes)
        self._next = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    def media_length(self, media: Media) -> int:
        data = media.data
        if media.kind != SOURCE or data.dtype.kind != "i" or data.ndim != 1:
            raise RequestError(
                f"The model reads a source of token ids in one row, and it was given {media.kind} {data.dtype} {data.shape}."
            )
        if len(data) > self._info.source_length:
            raise ContextLengthExceeded(f"The source has {len(data)} tokens, and the model reads {self._info.source_length} at most.")
        return len(data)

    def open(self) -> int:
        self._running()
        return self._hold(Held())

    def step(self, rows: Sequence[Row]) -> list[Array]:
        self._running()
        if len({row.slot for row in rows}) < len(rows):
            raise RequestError("A slot is in the step twice; give all its tokens in one row.")
        sources = [self._checked_source(row) for row in rows]
        targets = [self._checked_target(row) for row in rows]
        held = [self._slots[row.slot] if source is None else self._read(row, source) for row, source in zip(rows, sources, strict=True)]
        logits: list[list[Array]] = [[] for _ in rows]
        for index, tokens in enumerate(targets):
            if tokens and not held[index].target:
                held[index], found = self._begin(held[index], tokens)
                logits[index].append(found)
                targets[index] = []
        while any(targets):
            self._advance(targets, held, logits)
        self._slots.update((row.slot, each) for row, each in zip(rows, held, strict=True))
        nothing = np.empty((0, self._info.vocab_size), np.float32)
        all_of = [np.concatenate(each) if each else nothing for each in logits]
        return [each if row.want == "all" else each[-1:] if row.want == "last" else nothing for row, each in zip(rows, all_of, strict=True)]

    def _checked_source(self, row: Row) -> Array | None:
        """The tokens of a source that begins the row; None where its slot has one."""
        held = self._slot(row.slot)
        if row.position != held.length:
            raise RequestError(f"Slot {row.slot} holds {held.length} tokens, so its row cannot begin at {row.position}; truncate it first.")
        if row.position:
            return None
        if len(row.media) != 1 or row.media[0].start or len(row.tokens) < row.media[0].length:
            raise RequestError(f"The row of slot {row.slot} begins a sequence without the whole of one source; give it in Row.media.")
        tokens = row.media[0].media.data
        if self.media_length(row.media[0].media) != row.media[0].length:
            raise RequestError(f"The source of slot {row.slot} has {len(tokens)} tokens, and its place {row.media[0].length}.")
        if tokens.min() < 0 or tokens.max() >= self._source_vocab_size:
            raise RequestError(f"The source of slot {row.slot} has a token outside its vocabulary of {self._source_vocab_size}.")
        return np.asarray(tokens, np.int64)

    def _checked_target(self, row: Row) -> list[int]:
        """The row's tokens after the source."""
        held = self._slots[row.slot]
        tokens = list(row.tokens) if row.position else list(row.tokens[row.media[0].length :])
        if (row.want == "all" and not row.position) or (not tokens and row.want != "none"):
            raise RequestError(f"The row of slot {row.slot} wants {row.want!r}, and a source has no logits; ask after its end.")
        if any(not 0 <= token < self._info.vocab_size for token in tokens) or (row.position and not tokens):
            raise RequestError(f"The row of slot {row.slot} has no token, or one outside the vocabulary of {self._info.vocab_size}.")
        if held.target + len(tokens) > self._info.context_length - self._info.source_length:
            raise CapacityExceeded(f"The target of slot {row.slot} would pass the context; a slot is full.")
        return tokens

    def _read(self, row: Row, tokens: Array) -> Held:
        """Compute a source, unless what the encoder made of it is kept."""

        def encode() -> Array:
            mask = np.ones((1, len(tokens)), np.int64)
            return self._run(0, ["last_hidden_state"], {"input_ids": tokens[None], "attention_mask": mask})[0]

        states = self._encoded.obtain(row.sharer, row.media[0].media, encode, lambda made: made.nbytes)
        return Held(source=len(tokens), states=states)

    def _begin(self, held: Held, tokens: list[int]) -> tuple[Held, Array]:
        """Compute the first tokens of a target, and the source's keys and values; the logits [len(tokens), vocab]."""
        signature, count = self._signature, 2 * self._signature.layers
        given = {
            "input_ids": np.array([tokens], np.int64),
            "encoder_hidden_states": held.states,
            "encoder_attention_mask": np.ones((1, held.source), np.int64),
        }
        logits, *kept = self._run(1, ["logits", *signature.present("decoder"), *signature.present("encoder")], given)
        return attrs.evolve(held, own=tuple(kept[:count]), cross=tuple(kept[count:]), target=len(tokens)), _float32(logits[0])

    def _advance(self, targets: list[list[int]], held: list[Held], logits: list[list[Array]]) -> None:
        """Compute one token of every target that has one left, those of one length together."""
        groups: dict[int, list[int]] = {}
        for index, tokens in enumerate(targets):
            if tokens:
                groups.setdefault(held[index].target, []).append(index)
        signature = self._signature
        for length, members in groups.items():
            span = max(held[index].source for index in members)
            mask = np.array([[place < held[index].source for place in range(span)] for index in members], np.int64)
            given: dict[str, Any] = {"input_ids": np.array([[targets[index].pop(0)] for index in members], np.int64)}
            given["encoder_attention_mask"] = mask
            given |= zip(signature.past("decoder"), _stacked([held[index].own for index in members], length), strict=True)
            given |= zip(signature.past("encoder"), _stacked([held[index].cross for index in members], span), strict=True)
            if signature.later_reads_states:
                given["encoder_hidden_states"] = np.concatenate([_padded(held[index].states, span, 1) for index in members])
            found, *kept = self._run(2, ["logits", *signature.present("decoder")], given)
            for place, index in enumerate(members):
                own = tuple(part[place : place + 1] for part in kept)
                held[index] = attrs.evolve(held[index], own=own, target=length + 1)
                logits[index].append(_float32(found[place]))

    def _run(self, graph: int, outputs: list[str], given: dict[str, Any]) -> list[Array]:
        try:
            found: list[Array] = self._running()[graph].run(outputs, given)
        except Exception as error:
            raise failure(str(error).strip().splitlines()[0].rstrip("."), given["input_ids"].size) from error
        return found

    def truncate(self, slot: int, length: int) -> None:
        held = self._slot(slot)
        if not 0 <= length <= held.length or 0 < length < held.source:
            raise RequestError(
                f"Slot {slot} holds {held.source} tokens of a source and {held.target} after it, and cannot be cut to {length}."
            )
        target = length - held.source
        if length == 0:
            self._slots[slot] = Held()
        elif target < held.target:
            # A copy, since a view would keep the whole alive; nothing is left of a target without tokens.
            own = tuple(part[:, :, :target].copy() for part in held.own) if target else ()
            self._slots[slot] = attrs.evolve(held, own=own, target=target)

    def fork(self, slot: int) -> int:
        return self._hold(self._slot(slot))

    def close(self, slot: int) -> None:
        self._slot(slot)
        del self._slots[slot]

    def shutdown(self) -> None:
        self._sessions = None
        self._slots.clear()
        self._encoded.clear()

    def _hold(self, held: Held) -> int:
        if len(self._slots) >= self._info.max_sequences:
            raise CapacityExceeded(f"All {self._info.max_sequences} slots are open; close one, or load with a larger max_sequences.")
        self._next += 1
        self._slots[self._next] = held
        return self._next

    def _slot(self, slot: int) -> Held:
        self._running()
        try:
            return self._slots[slot]
        except KeyError:
            raise RequestError(f"Slot {slot} is not open; open() and fork() give slots.") from None

    def _running(self) -> tuple[ort.InferenceSession, ...]:
        if self._sessions is None:
            raise EngineFailed(_SHUT_DOWN)
        return self._sessions


def _stacked(caches: Sequence[tuple[Array, ...]], length: int) -> list[Array]:
    """The caches of several slots, one [n, heads, length, dim] for each layer's keys and values."""
    if len(caches) == 1:
        return list(caches[0])
    return [np.concatenate([_padded(part, length, 2) for part in parts]) for parts in zip(*caches, strict=True)]


def _padded(part: Array | None, length: int, axis: int) -> Array:
    """``part`` with zeros up to ``length`` along ``axis``, which the mask leaves out."""
    assert part is not None
    missing = length - part.shape[axis]
    return np.pad(part, [(0, missing if at == axis else 0) for at in range(part.ndim)]) if missing else part


def _float32(logits: Array) -> Array:
    return np.asarray(logits, np.float32)

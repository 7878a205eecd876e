"""Sequences of a graph that returns a longer copy of its KV cache: ``past_key_values`` in, ``present`` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import numpy as np

from llmasos_backend_onnx.foreign.runs import ExportedDecoder
from llmasos_backend_onnx.foreign.sequences import Abilities, OpenSlots
from llmasos_backend_onnx.foreign.strip import Strip
from llmasos_backend_onnx.steps import Floats, Integers, wanted_logits
from llmasos_hookspecs import CapacityExceeded, Row

#: In a run over many tokens, a token costs about an eighth of a run of its own.
_CHEAPER: Final = 8


@attrs.define
class _Sequence:
    strip: Strip
    length: int = 0
    text: list[int] = attrs.field(factory=list)


class GrowingSequences:
    """Implements ``Sequences``.

    Args:
        first: computes a sequence's first tokens; may be the same as ``decoder``.
        decoder: computes the tokens after them.
        chunk: most tokens in one run, if the graph takes several tokens after cached ones.
    """

    def __init__(self, first: ExportedDecoder, decoder: ExportedDecoder, abilities: Abilities, *, most: int, chunk: int) -> None:
        self._first = first
        self._decoder = decoder
        self._abilities = abilities
        self._chunk = chunk
        self._slots: OpenSlots[_Sequence] = OpenSlots(most)

    @property
    def tokens(self) -> int:
        return sum(held.length for held in self._slots.values())

    def open(self) -> int:
        return self._slots.add(lambda slot: _Sequence(self._strip([slot])))

    def close(self, slot: int) -> None:
        strip = self._slots[slot].strip
        self._split_off(strip, {slot})
        self._slots.remove(slot)

    def fork(self, slot: int) -> int:
        source = self._slots[slot]
        copy = self.open()
        target = self._slots[copy]
        try:
            target.strip.fill([source.strip.part(slot, source.length)])
        except CapacityExceeded:
            self._slots.remove(copy)
            raise
        target.length, target.text = source.length, source.text[: source.length]
        return copy

    def length(self, slot: int) -> int:
        return self._slots[slot].length

    def truncate(self, slot: int, length: int) -> None:
        self._slots[slot].length = length

    def compute(self, rows: Sequence[Row], tokens: Sequence[Integers]) -> list[Floats]:
        results: list[Floats] = [np.empty(0, dtype=np.float32)] * len(rows)
        singles = [index for index, row in enumerate(rows) if len(tokens[index]) == 1 and row.position]
        for group in self._groups(rows, singles):
            strip = self._together([rows[index].slot for index in group])
            by_slot = {rows[index].slot: index for index in group}
            order = [by_slot[slot] for slot in strip.slots]
            logits = strip.run(self._decoder, np.array([tokens[index] for index in order]), keep=1)
            for place, index in enumerate(order):
                results[index] = _wanted(logits[place], rows[index])
        for index, row in enumerate(rows):
            if index not in singles:
                results[index] = _wanted(self._prefill(row, tokens[index]), row)
        # Lengths change only after success: on an error every slot keeps its length, and a strip that grew is cut when it is next used.
        for row in rows:
            held = self._slots[row.slot]
            held.length = row.position + len(row.tokens)
            held.text[row.position :] = row.tokens
        return results

    def release(self) -> None:
        self._slots.clear()

    def _prefill(self, row: Row, tokens: Integers) -> Floats:
        """Logits of the last tokens of the row, at least as many as it wants."""
        strip = self._together([row.slot])
        held = self._slots[row.slot]
        parts: list[Floats] = []
        keep = wanted_logits(row)
        each = keep > 1 and self._decoder.form.last_only
        after = row.position
        if after and len(tokens) > 1 and not self._abilities.chunks and not each and after + len(tokens) <= _CHEAPER * len(tokens):
            whole = np.array([*held.text[:after], *tokens.tolist()])
            logits: Floats = strip.run(self._first, whole[None], keep=keep, afresh=True)[0]
            return logits
        for part in self._parts(tokens, after, each=each):
            decoder = self._decoder if after else self._first
            if keep <= 1:
                parts.clear()
            parts.append(strip.run(decoder, part[None], keep=min(keep, len(part)))[0])
            after += len(part)
        return np.concatenate(parts)

    def _parts(self, tokens: Integers, after: int, *, each: bool) -> Iterator[Integers]:
        """The tokens split into runs: chunks, or single tokens if the graph takes or returns only one."""
        if each or (after and not self._abilities.chunks):
            yield from (tokens[place : place + 1] for place in range(len(tokens)))
            return
        size = self._chunk if self._abilities.chunks else len(tokens)
        yield from (tokens[place : place + size] for place in range(0, len(tokens), size))

    def _groups(self, rows: Sequence[Row], singles: Sequence[int]) -> Iterator[list[int]]:
        """Groups of rows whose next tokens are computed in one run."""
        group: list[int] = []
        shortest = 0
        for index in sorted(singles, key=lambda index: rows[index].position):
            length = rows[index].position
            # Padding costs attention and memory: at most a quarter of the longest.
            spread = {"padded": max(16, length // 4), "equal": 0, "none": -1}[self._abilities.batch]
            if group and length - shortest > spread:
                yield group
                group = []
            if not group:
                shortest = length
            group.append(index)
        if group:
            yield group

    def _together(self, slots: Sequence[int]) -> Strip:
        """A strip of exactly these sequences, each at its length."""
        strip = self._slots[slots[0]].strip
        whole = set(strip.slots) == set(slots) and all(
            self._slots[slot].length + pad == strip.tokens for slot, pad in zip(strip.slots, strip.pads, strict=True)
        )
        if whole:
            return strip
        parts = [self._slots[slot].strip.part(slot, self._slots[slot].length) for slot in slots]
        if len(slots) == 1 and strip.slots == list(slots):
            strip.fill(parts)
            return strip
        made = self._strip(slots)
        made.fill(parts)
        for left in {id(strip): strip for strip in (self._slots[slot].strip for slot in slots)}.values():
            self._split_off(left, set(slots))
        for slot in slots:
            self._slots[slot].strip = made
        return made

    def _split_off(self, strip: Strip, leaving: set[int]) -> None:
        """Give the remaining sequences strips of their own; a shared strip would keep the memory of the leaving ones."""
        for slot in strip.slots:
            held = self._slots[slot]
            # After an earlier out-of-memory error in this method, some already have strips of their own.
            if slot not in leaving and held.strip is strip:
                own = self._strip([slot])
                own.fill([strip.part(slot, held.length)])
                held.strip = own

    def _strip(self, slots: Sequence[int]) -> Strip:
        return Strip(self._decoder.signature, slots)


def _wanted(logits: Floats, row: Row) -> Floats:
    return logits[len(logits) - wanted_logits(row) :]

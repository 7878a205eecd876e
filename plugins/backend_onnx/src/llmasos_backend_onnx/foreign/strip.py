"""Keys and values of sequences that are computed together, double-buffered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.foreign.runs import Batch, ExportedDecoder
from llmasos_backend_onnx.foreign.signature import Signature
from llmasos_hookspecs import CapacityExceeded

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Strip:
    """The caches of some sequences as one array a tensor, [B, heads, tokens, dim], each padded on the left to the longest.

    An exported graph copies its whole past into its present outputs; it reads one set of buffers and writes the other. So the state before
    a run stays intact until the run succeeds, and memory is not allocated at every token.
    """

    def __init__(self, signature: Signature, slots: Sequence[int]) -> None:
        self.slots = list(slots)
        self.pads = [0] * len(self.slots)
        self.tokens = 0
        self._signature = signature
        self._front: list[Array] = []
        self._back: list[Array] = []
        self._make_room(self.tokens)
        self._turn(0)

    def fill(self, parts: Sequence[Sequence[Array]]) -> None:
        """Copy in the caches of its sequences: for each, one array [heads, tokens, dim] a tensor."""
        lengths = [part[0].shape[1] for part in parts]
        longest = max(lengths)
        self._make_room(longest)
        for tensor, target in enumerate(self._views(self._back, longest)):
            for row, (part, length) in enumerate(zip(parts, lengths, strict=True)):
                # Padding is masked, but 0 times uninitialised memory may be NaN.
                target[row, :, : longest - length] = 0
                target[row, :, longest - length :] = part[tensor]
        self.pads = [longest - length for length in lengths]
        self._turn(longest)

    def part(self, slot: int, length: int) -> list[Array]:
        """The first ``length`` tokens of a sequence: views [heads, length, dim]."""
        row = self.slots.index(slot)
        start = self.pads[row]
        return [view[row, :, start : start + length] for view in self._views(self._front, self.tokens)]

    def run(self, decoder: ExportedDecoder, tokens: Integers, *, keep: int, afresh: bool = False) -> Floats:
        """Compute tokens [B, S] after those of each sequence, keep them, and return their logits. ``afresh``: drop earlier tokens first."""
        held = 0 if afresh else self.tokens
        count = tokens.shape[1]
        pads = np.array([0] * len(self.slots) if afresh else self.pads)[:, None]
        places = np.arange(held + count)[None]
        batch = Batch(tokens=tokens, positions=places[:, held:] - pads, mask=(places >= pads).astype(np.int64))
        self._make_room(held + count)
        present = self._views(self._back, held + count)
        logits = decoder.run(batch, self._views(self._front, held), present, keep=keep)
        if afresh:
            self.pads = [0] * len(self.slots)
        self._turn(held + count)
        return logits

    def _views(self, buffers: Sequence[Array], tokens: int) -> list[Array]:
        rows = len(self.slots)
        return [
            buffer[: rows * tensor.heads * tokens * tensor.dim].reshape(rows, tensor.heads, tokens, tensor.dim)
            for buffer, tensor in zip(buffers, self._signature.cache, strict=True)
        ]

    def _make_room(self, tokens: int) -> None:
        """Make the back buffers large enough for ``tokens`` of each sequence, with headroom so that they are not reallocated at every
        token."""
        rows, cache = len(self.slots), self._signature.cache
        if self._back and self._back[0].size >= rows * cache[0].heads * tokens * cache[0].dim:
            return
        tokens += max(16, tokens // 8)
        self._back = []  # freed before the larger allocation
        try:
            self._back = [np.empty(rows * tensor.heads * tokens * tensor.dim, dtype=self._signature.cache_dtype) for tensor in cache]
        except MemoryError as error:
            raise CapacityExceeded(f"No memory for keys and values of {rows * tokens} tokens; take a smaller step.") from error

    def _turn(self, tokens: int) -> None:
        self._front, self._back = self._back, self._front
        self.tokens = tokens

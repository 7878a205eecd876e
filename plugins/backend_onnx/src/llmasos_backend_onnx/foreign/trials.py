"""Tests at load what an exported graph computes correctly.

A graph does not state whether it masks padding, counts positions from the mask, or takes several tokens after a cache. Each ability is
tested on a few tokens, and used only if the logits equal those without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import numpy as np

from llmasos_backend_onnx.foreign.graph import ExportedGraph
from llmasos_backend_onnx.foreign.sequences import Abilities, Sequences
from llmasos_backend_onnx.steps import Floats
from llmasos_hookspecs import EngineFailed, Row, UnsupportedModel

#: Largest relative error |a - b| / |b| of logits that count as equal, for a text in chunks and in a batch: if everything is float32, and if
#: something is rounded further. A wrong mask or position gives an error of 0.1 and more.
_CUT: Final = 1e-3
_CUT_ROUNDED: Final = 0.03
_BATCH_ERROR: Final = 1e-4
_BATCH_ERROR_ROUNDED: Final = 0.01
#: If a run shares one activation scale, splitting a text changes the scale.
_CUT_SHARED_SCALE: Final = 0.2
_TEXT: Final = (11, 4, 7, 13, 2, 9, 5, 12, 3, 8)

Make = Callable[[Abilities], Sequences]
Use = Callable[[Sequences], Floats]


def find_abilities(make: Make, graph: ExportedGraph, vocab_size: int) -> Abilities:
    """Test a decoder with a cache.

    Args:
        make: makes sequences that use the given abilities; at least two can be open.

    Raises:
        UnsupportedModel: even a single token after a cache gives other logits than in one run.
    """
    trials = _Trials(make, vocab_size)
    exact = graph.dtype == "float32" and not graph.rounds_a_run
    cut = _CUT_SHARED_SCALE if graph.rounds_a_run else _CUT if exact else _CUT_ROUNDED
    expected = trials.attempt(Abilities(), trials.in_one)
    if expected is None:
        raise UnsupportedModel(f"{graph.path} does not compute a prompt of {len(_TEXT)} tokens: {trials.reason}")
    alone = Abilities(chunks=True)
    if not trials.agree(alone, trials.in_parts, expected, cut):
        alone = Abilities()
        if not trials.agree(alone, trials.in_parts, expected, cut):
            raise UnsupportedModel(f"{graph.path} cannot go on behind its cache: {trials.reason}")
    if graph.rounds_a_run:
        return alone
    for together, lengths in ((attrs.evolve(alone, batch="padded"), (9, 4)), (attrs.evolve(alone, batch="equal"), (6, 6))):
        side_by_side = functools.partial(trials.side_by_side, lengths=lengths)
        wanted = trials.attempt(alone, side_by_side)
        if wanted is not None and trials.agree(together, side_by_side, wanted, _BATCH_ERROR if exact else _BATCH_ERROR_ROUNDED):
            return together
    return alone


class _Trials:
    """Runs the attempts; ``reason`` says why the last one failed."""

    def __init__(self, make: Make, vocab_size: int) -> None:
        self.reason = ""
        self._make = make
        self._texts = [[(token + shift) % vocab_size for token in _TEXT] for shift in (0, 1)]

    def attempt(self, abilities: Abilities, use: Use) -> Floats | None:
        """The logits that ``use`` returns; None if the graph fails."""
        sequences = self._make(abilities)
        try:
            return use(sequences)
        except EngineFailed as error:
            self.reason = str(error)
            return None
        finally:
            sequences.release()

    def agree(self, abilities: Abilities, use: Use, expected: Floats, limit: float) -> bool:
        found = self.attempt(abilities, use)
        if found is None:
            return False
        error = float((np.linalg.norm(found - expected, axis=-1) / np.maximum(np.linalg.norm(expected, axis=-1), 1e-30)).max())
        self.reason = f"its logits are off by {error:.2g} of their size there; export the model again."
        return error <= limit  # also False for NaN

    def in_one(self, sequences: Sequences) -> Floats:
        """Logits of the last tokens, each text in one run."""
        found = []
        for end in (8, 10):
            slot = sequences.open()
            found.append(_feed(sequences, slot, self._texts[0][:end], 0))
            sequences.close(slot)
        return np.concatenate(found)

    def in_parts(self, sequences: Sequences) -> Floats:
        """The same logits after a cache: of several tokens, and of one."""
        slot, found = sequences.open(), []
        for start, end in ((0, 5), (5, 8), (8, 9), (9, 10)):
            found.append(_feed(sequences, slot, self._texts[0][start:end], start))
        return np.concatenate([found[1], found[3]])

    def side_by_side(self, sequences: Sequences, *, lengths: Sequence[int]) -> Floats:
        """Logits of one more token after each text, computed as a batch."""
        slots = [sequences.open() for _ in lengths]
        for slot, text, length in zip(slots, self._texts, lengths, strict=True):
            _feed(sequences, slot, text[:length], 0)
        rows = [Row(slot, [self._texts[0][0]], length) for slot, length in zip(slots, lengths, strict=True)]
        return np.concatenate(sequences.compute(rows, [np.asarray(row.tokens) for row in rows]))


def _feed(sequences: Sequences, slot: int, tokens: Sequence[int], position: int) -> Floats:
    return sequences.compute([Row(slot, tokens, position)], [np.asarray(tokens)])[0]

"""Draws of tokens from rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Draw
from llmasos_kernels_cpu import library

Floats = npt.NDArray[np.float32]

#: As ``Choice`` in ``native/drawing.h``.
_CHOICE: Final = np.dtype([("temperature", "f8"), ("top_p", "f8"), ("min_p", "f8"), ("point", "f8"), ("top_k", "i8")])


class CpuDraws:
    """Draws tokens on one thread: on two, one of which the loader's own threads still spin on, the passes took longer."""

    def __init__(self, name: str | None = None) -> None:
        """``name``: the instruction set; None: the one that is chosen."""
        self._name = name

    def draw(self, rows: Sequence[Floats], draws: Sequence[Draw]) -> npt.NDArray[np.int64]:
        """A token of each row of logits, contiguous float32 [vocab], which are not changed; -1 where a row holds NaN or infinity, or no
        token that may be chosen."""
        changed = [_changed(row, draw) for row, draw in zip(rows, draws, strict=True)]
        choices = np.array(
            [(draw.params.temperature, draw.params.top_p, draw.params.min_p, draw.point, draw.params.top_k) for draw in draws], _CHOICE
        )
        return library.draw(changed, choices, name=self._name)


def _changed(logits: Floats, draw: Draw) -> Floats:
    """Logits [vocab] with bias and penalties; the same array where nothing changes, else a copy."""
    params = draw.params
    if not (params.logit_bias or len(draw.seen) or len(draw.generated)):
        return logits
    changed = logits.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        if params.logit_bias:
            changed[list(params.logit_bias)] += np.array(list(params.logit_bias.values()), np.float32)
        if len(draw.seen):
            scores, penalty = changed[draw.seen], np.float32(params.repetition_penalty)
            changed[draw.seen] = np.where(scores < 0, scores * penalty, scores / penalty)
        if len(draw.generated):
            changed[draw.generated] -= np.float32(params.frequency_penalty) * draw.counts + np.float32(params.presence_penalty)
    return changed

"""Draws of tokens from rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Draw
from llmasos_kernels_cpu import library

Floats = npt.NDArray[np.float32]

#: As ``Choice`` in ``native/drawing.h``.
_CHOICE: Final = np.dtype(
    [
        *((name, "f8") for name in ("temperature", "top_p", "min_p", "point")),
        *((name, "i8") for name in ("top_k", "biased", "seen", "generated")),
        *((name, "u8") for name in ("biased_ids", "seen_ids", "generated_ids", "biases", "counts")),
        *((name, "f4") for name in ("repetition", "presence", "frequency")),
    ],
    align=True,
)


class CpuDraws:
    """Draws tokens on one thread: the loader's own threads still wait for work on the others."""

    def __init__(self, name: str | None = None) -> None:
        """``name``: the instruction set; None: the one that is chosen."""
        self._name = name

    def draw(self, rows: Sequence[Floats], draws: Sequence[Draw]) -> npt.NDArray[np.int64]:
        """A token of each row of logits, contiguous float32 [vocab], which are not changed; -1 where a row holds NaN or infinity, or no
        token that may be chosen. Raises ``LLMasOSError`` where a draw has an id outside the vocabulary."""
        kept: list[npt.NDArray[Any]] = []
        return library.draw(rows, np.array([_choice(draw, kept) for draw in draws], _CHOICE), name=self._name)


def _choice(draw: Draw, kept: list[npt.NDArray[Any]]) -> tuple[float, ...]:
    """The fields of ``_CHOICE``; arrays that these point to and that ``draw`` does not hold are added to ``kept``."""
    params, bias = draw.params, draw.params.logit_bias
    cuts = (params.temperature, params.top_p, params.min_p, draw.point, params.top_k)
    if not (bias or len(draw.seen) or len(draw.generated)):
        return (*cuts, 0, 0, 0, 0, 0, 0, 0, 0, 1.0, 0.0, 0.0)
    arrays: list[npt.NDArray[Any]] = [
        np.fromiter(bias.keys(), np.int64, len(bias)),
        np.ascontiguousarray(draw.seen, np.int64),
        np.ascontiguousarray(draw.generated, np.int64),
        np.fromiter(bias.values(), np.float32, len(bias)),
        np.ascontiguousarray(draw.counts, np.float32),
    ]
    kept += arrays
    addresses = (array.__array_interface__["data"][0] for array in arrays)
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return (*cuts, len(bias), len(draw.seen), len(draw.generated), *addresses, *penalties)

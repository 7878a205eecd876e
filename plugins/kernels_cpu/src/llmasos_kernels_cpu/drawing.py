"""Draws of tokens from rows of logits."""

from __future__ import annotations

import functools
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

#: Rows that are worth waking a thread for.
_ROWS_A_THREAD: Final = 4


class CpuDraws:
    """Draws tokens."""

    def __init__(self, name: str | None = None) -> None:
        """``name``: the instruction set; None: the one that is chosen."""
        self._name = name

    def draw(self, rows: Sequence[Floats], draws: Sequence[Draw], *, threads: int = 1) -> npt.NDArray[np.int64]:
        """A token of each row of logits, contiguous float32 [vocab], which are not changed; -1 where a row holds NaN or infinity, or no
        token that may be chosen. Raises ``LLMasOSError`` where a draw has an id outside the vocabulary."""
        choices, _pointed_to = _choices(draws)  # which must live as long as the call
        return library.draw(rows, choices, threads=min(threads, len(rows) // _ROWS_A_THREAD), name=self._name)


@functools.lru_cache(maxsize=256)  # a request has one for all its tokens, and many requests have the same
def _cut(temperature: float, top_p: float, min_p: float, top_k: int) -> bytes:
    """A choice that changes no logit, without its point."""
    choice = np.zeros((), _CHOICE)
    for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p), ("top_k", top_k), ("repetition", 1.0)):
        choice[name] = value
    return choice.tobytes()


def _choices(draws: Sequence[Draw]) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    """What the library takes, [n] of ``_CHOICE``, and the arrays that it points to."""
    cuts = [_cut(params.temperature, params.top_p, params.min_p, params.top_k) for params in (draw.params for draw in draws)]
    choices = np.frombuffer(bytearray().join(cuts), _CHOICE)
    choices["point"] = [draw.point for draw in draws]
    kept: list[npt.NDArray[Any]] = []
    changing = [place for place, draw in enumerate(draws) if draw.params.logit_bias or len(draw.seen) or len(draw.generated)]
    if changing:
        some = [draws[place] for place in changing]
        biases = [draw.params.logit_bias for draw in some]
        # One array for all rows: finding where 64 arrays lie takes longer than copying them.
        for number, field, arrays, dtype in (
            ("biased", "biased_ids", [np.fromiter(bias.keys(), np.int64, len(bias)) for bias in biases] if any(biases) else [], np.int64),
            ("biased", "biases", [np.fromiter(bias.values(), np.float32, len(bias)) for bias in biases] if any(biases) else [], np.float32),
            ("seen", "seen_ids", [draw.seen for draw in some], np.int64),
            ("generated", "generated_ids", [draw.generated for draw in some], np.int64),
            ("generated", "counts", [draw.counts for draw in some], np.float32),
        ):
            if not arrays:
                continue
            joined = np.concatenate(arrays).astype(dtype, copy=False)
            sizes = np.fromiter(map(len, arrays), np.int64, len(arrays))
            choices[number][changing] = sizes
            choices[field][changing] = joined.ctypes.data + joined.itemsize * (np.cumsum(sizes) - sizes)
            kept.append(joined)
        for field in ("repetition", "presence", "frequency"):
            choices[field][changing] = [getattr(draw.params, f"{field}_penalty") for draw in some]
    return choices, kept

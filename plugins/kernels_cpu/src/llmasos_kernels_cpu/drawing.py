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

    def draw(self, rows: Sequence[Floats] | Floats, draws: Sequence[Draw], *, threads: int = 1) -> npt.NDArray[np.int64]:
        """A token of each row of logits, contiguous float32 [vocab] each or [n, vocab], which are not changed; -1 where a row holds NaN or
        infinity, or no token that may be chosen. Raises ``LLMasOSError`` where a draw has an id outside the vocabulary."""
        choices, _pointed_to = _choices(draws)  # which must live as long as the call
        return library.draw(rows, choices, threads=min(threads, len(rows) // _ROWS_A_THREAD), name=self._name)


@functools.lru_cache(maxsize=256)  # a request has one for all its tokens, and many requests have the same
def _choice(temperature: float, top_p: float, min_p: float, top_k: int, repetition: float, presence: float, frequency: float) -> bytes:
    """A choice without its point and its ids."""
    choice = np.zeros((), _CHOICE)
    cuts = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "top_k": top_k}
    for name, value in {**cuts, "repetition": repetition, "presence": presence, "frequency": frequency}.items():
        choice[name] = value
    return choice.tobytes()


def _choices(draws: Sequence[Draw]) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    """What the library takes, [n] of ``_CHOICE``, and the arrays that it points to."""
    joined = bytearray().join(
        [
            _choice(of.temperature, of.top_p, of.min_p, of.top_k, of.repetition_penalty, of.presence_penalty, of.frequency_penalty)
            for of in [draw.params for draw in draws]
        ]
    )
    choices = np.frombuffer(joined, _CHOICE)
    choices["point"] = [draw.point for draw in draws]
    kept: list[npt.NDArray[Any]] = []

    def point_to(number: str, field: str, arrays: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> None:
        # One array for all rows: finding where 64 arrays lie takes longer than copying them.
        sizes = np.fromiter(map(len, arrays), np.int64, len(arrays))
        array = np.concatenate(arrays).astype(dtype, copy=False)
        choices[number] = sizes
        choices[field] = array.ctypes.data + array.itemsize * (np.cumsum(sizes) - sizes)
        kept.append(array)

    if any(draw.params.logit_bias for draw in draws):
        biases = [draw.params.logit_bias for draw in draws]
        point_to("biased", "biased_ids", [np.fromiter(bias.keys(), np.int64, len(bias)) for bias in biases], np.int64)
        point_to("biased", "biases", [np.fromiter(bias.values(), np.float32, len(bias)) for bias in biases], np.float32)
    if any(len(draw.seen) for draw in draws):
        point_to("seen", "seen_ids", [draw.seen for draw in draws], np.int64)
    if any(len(draw.generated) for draw in draws):
        point_to("generated", "generated_ids", [draw.generated for draw in draws], np.int64)
        point_to("generated", "counts", [draw.counts for draw in draws], np.float32)
    return choices, kept

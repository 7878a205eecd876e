"""The speed of an engine at batch 1, driven directly: no scheduler, greedy sampling."""

from __future__ import annotations

import time
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CapacityExceeded, Engine, Row

#: Timed repetitions, after one warm-up that chooses kernels and fills caches.
REPEATS: Final = 5
PROMPT_TOKENS: Final = 128
NEW_TOKENS: Final = 32


@attrs.frozen(kw_only=True)
class Speed:
    """Tokens a second, each with its standard error over the repetitions.

    Attributes:
        prefill: a prompt of ``prompt_tokens`` in one step.
        decode: ``new_tokens`` greedy tokens after it, one in each step.
    """

    prefill: float
    prefill_error: float
    decode: float
    decode_error: float
    prompt_tokens: int
    new_tokens: int
    repeats: int


def measure_speed(engine: Engine, tokens: npt.NDArray[np.int32], *, repeats: int = REPEATS) -> Speed:
    """Time prefill and decode on a prompt taken from ``tokens``, int32 [length]."""
    room = max(1, engine.info.context_length - NEW_TOKENS)
    prompt = tokens[: min(PROMPT_TOKENS, room)].tolist()
    prefills, decodes = [], []
    for repeat in range(repeats + 1):
        prefill, decode = _time(engine, prompt)
        if repeat:
            prefills.append(len(prompt) / prefill)
            decodes.append(NEW_TOKENS / decode)
    return Speed(
        prefill=float(np.mean(prefills)),
        prefill_error=_standard_error(prefills),
        decode=float(np.mean(decodes)),
        decode_error=_standard_error(decodes),
        prompt_tokens=len(prompt),
        new_tokens=NEW_TOKENS,
        repeats=repeats,
    )


def _time(engine: Engine, prompt: list[int]) -> tuple[float, float]:
    slot = engine.open()
    try:
        began = time.perf_counter()
        token = int(_prefill(engine, slot, prompt)[0].argmax())
        prefilled = time.perf_counter()
        for position in range(len(prompt), len(prompt) + NEW_TOKENS):
            token = int(engine.step([Row(slot, [token], position)])[0][0].argmax())
        return prefilled - began, time.perf_counter() - prefilled
    finally:
        engine.close(slot)


def _prefill(engine: Engine, slot: int, prompt: list[int]) -> npt.NDArray[np.float32]:
    size = len(prompt)
    while True:
        try:
            for start in range(0, len(prompt), size):
                logits = engine.step([Row(slot, prompt[start : start + size], start)])[0]
            return logits
        except CapacityExceeded:
            engine.truncate(slot, 0)
            if size == 1:
                raise
            size //= 2


def _standard_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0

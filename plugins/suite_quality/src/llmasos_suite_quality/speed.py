"""LLMasOS suite ``speed``: prefill and decode at batch 1, on the engine itself: no scheduler, greedy sampling."""

from __future__ import annotations

import time

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CapacityExceeded, Component, Engine, Figure, MeasuredModel, Row, SuiteResult, hookimpl
from llmasos_suite_quality.standard_error import standard_error


@attrs.frozen(kw_only=True)
class Options:
    """Options of the suite."""

    prompt_tokens: int = attrs.field(
        default=128, validator=attrs.validators.ge(1), metadata={"help": "Tokens of the prompt, which is computed in one step."}
    )
    new_tokens: int = attrs.field(
        default=32, validator=attrs.validators.ge(1), metadata={"help": "Tokens after it, each computed in a step of its own."}
    )
    repeats: int = attrs.field(
        default=5,
        validator=attrs.validators.ge(1),
        metadata={"help": "Timed repetitions, after one warm-up that chooses kernels and fills caches."},
    )
    length: int = attrs.field(
        default=512, validator=attrs.validators.ge(2), metadata={"help": "Tokens of the text that the prompt is the beginning of."}
    )


@attrs.frozen(kw_only=True)
class Speed:
    """Tokens a second, each with its standard error over the repetitions; ``prompt_tokens`` as many as the context has room for."""

    prefill: float
    prefill_error: float
    decode: float
    decode_error: float
    prompt_tokens: int


def measure_speed(engine: Engine, tokens: npt.NDArray[np.int32], options: Options) -> Speed:
    """Time prefill and decode on a prompt taken from ``tokens``, int32 [length]."""
    room = max(1, engine.info.context_length - options.new_tokens)
    prompt = tokens[: min(options.prompt_tokens, room)].tolist()
    prefills, decodes = [], []
    for repeat in range(options.repeats + 1):
        prefill, decode = _time(engine, prompt, options.new_tokens)
        if repeat:
            prefills.append(len(prompt) / prefill)
            decodes.append(options.new_tokens / decode)
    return Speed(
        prefill=float(np.mean(prefills)),
        prefill_error=standard_error(prefills),
        decode=float(np.mean(decodes)),
        decode_error=standard_error(decodes),
        prompt_tokens=len(prompt),
    )


class SpeedSuite:
    """Implements ``llmasos_hookspecs.Suite``."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def measure(self, model: MeasuredModel) -> SuiteResult:
        speed = measure_speed(model.engine(), model.windows(1, self._options.length)[0], self._options)
        return SuiteResult(
            figures=(
                Figure(
                    name="prefill",
                    value=speed.prefill,
                    error=speed.prefill_error,
                    unit="tok/s",
                    better="higher",
                    repeatable=False,
                    digits=0,
                ),
                Figure(
                    name="decode", value=speed.decode, error=speed.decode_error, unit="tok/s", better="higher", repeatable=False, digits=1
                ),
            ),
            facts={"prompt_tokens": speed.prompt_tokens, "new_tokens": self._options.new_tokens, "repeats": self._options.repeats},
        )


def _time(engine: Engine, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    slot = engine.open()
    try:
        began = time.perf_counter()
        token = int(_prefill(engine, slot, prompt)[0].argmax())
        prefilled = time.perf_counter()
        for position in range(len(prompt), len(prompt) + new_tokens):
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


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Prefill and decode of one request, on the engine itself.",
        options=Options,
        examples=("llmasos evaluate smollm2 --suite speed",),
    )


@hookimpl
def llmasos_create_suite(options: Options) -> SpeedSuite:
    return SpeedSuite(options)

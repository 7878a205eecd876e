"""``make bench-loop``: what the runtime takes of a step: all that its thread does from one call of the engine to the next.

The engine computes nothing: it answers with noise in the place of logits, at once (`warm`), or after it has read more memory than the
processor's caches hold, as a model's weights are (`cold`). A step of a real model leaves the caches cold. Processor time of the loop's
thread, the median of the steps in microseconds, which a busy machine changes little while it is warm, and up to a third while it is cold;
and the functions that a step calls: of Python, and in C.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

import llmasos
from llmasos_hookspecs import EngineInfo, Request, Row, SamplingParams

#: Bytes that empty the caches.
_BYTES = 128 << 20
#: Steps before the first that counts: until then requests arrive.
_WARM_UP = 40


class NoEngine:
    """An engine without a model: every logit is noise.

    Attributes:
        gaps: nanoseconds of the thread's processor time from the end of each step to the beginning of the next.
        calls: names of the functions that one gap called, those in C after a space; None: they are not noted.
    """

    def __init__(self, info: EngineInfo, *, cold: bool) -> None:
        self.info = info
        self.gaps: list[int] = []
        self.calls: list[str] | None = None
        self._numbers = itertools.count()
        self._weights = np.ones(_BYTES if cold else 0, np.uint8)
        self._noise = np.random.default_rng(0).standard_normal((64, info.vocab_size), np.float32)
        self._logits = np.empty_like(self._noise)
        self._ended: int | None = None

    def open(self) -> int:
        return next(self._numbers)

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is held."""

    def close(self, slot: int) -> None:
        """Nothing is held."""

    def shutdown(self) -> None:
        """Nothing is held."""

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        began = time.thread_time_ns()
        sys.setprofile(None)
        if self._ended is not None:
            self.gaps.append(began - self._ended)
        self._weights.max(initial=0)
        np.copyto(self._logits[: len(rows)], self._noise[: len(rows)])
        if self.calls is not None and len(self.gaps) == _WARM_UP:
            sys.setprofile(self._note)
        self._ended = time.thread_time_ns()
        return list(self._logits[: len(rows), None])

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.calls is not None and event in {"call", "c_call"}:
            self.calls.append(frame.f_code.co_qualname if event == "call" else f" {argument.__qualname__}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-loop ARGS=...", description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--show", action="store_true", help="print the functions that a step of one sequence calls")
    arguments = parser.parse_args()
    scheduler = {"use": "fifo", "max_sequences": 64, "step_tokens": 4096}
    with llmasos.load_model("smollm2", scheduler=scheduler) as model, model._host.lease() as running:
        print(f"{'sequences':>9} {'warm':>6} {'cold':>6} {'calls':>6} {'in C':>6}")
        for count in (1, 8, 32):
            warm, cold = (_steps(running.loop, count, arguments.steps, cold=cold).gaps for cold in (False, True))
            calls = _steps(running.loop, count, 1, cold=False, noting=True).calls or []
            in_c = sum(name.startswith(" ") for name in calls)
            print(f"{count:9} {_microseconds(warm):6.0f} {_microseconds(cold):6.0f} {len(calls) - in_c:6} {in_c:6}", flush=True)
            if arguments.show and count == 1:
                print("\n".join(calls))


def _steps(loop: Any, sequences: int, steps: int, *, cold: bool, noting: bool = False) -> NoEngine:
    engine = NoEngine(loop.info, cold=cold)
    if noting:
        engine.calls = []
    loop.forget_prefixes()
    loop._engine._engine = engine
    requests = [
        Request(
            id=f"{number}",
            model="bench",
            tokens=(5, 6, 7 + number),
            max_new_tokens=steps + 2 * _WARM_UP,
            arrival=time.monotonic(),
            sampling=SamplingParams(temperature=0.0, ignore_eos=True),
        )
        for number in range(sequences)
    ]
    for ticket in [loop.submit(request) for request in requests]:
        ticket.result()
    return engine


def _microseconds(gaps: Sequence[int]) -> float:
    return statistics.median(gaps[_WARM_UP:-_WARM_UP]) / 1e3


if __name__ == "__main__":
    main()

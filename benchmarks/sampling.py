"""``make bench-sampling``: what sampling a step's sequences costs.

The logits are SmolLM2's own after tokens of English prose, and the engine computes them anew before each draw: what of them is in the
caches then, and what else runs, is as in a step. `core` is the runtime's own sampler, on one thread, and `kernels` the installed operators
for ONNX Runtime, where these draw, on one and on two threads. A figure is the median of the batches, in milliseconds, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import pydoc_data.topics
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import llmasos
from llmasos_decoder_kit.onnx_operators import find_operators
from llmasos_engine import sampler
from llmasos_hookspecs import Row, SamplingParams

KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 50},
    {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
]


Rows = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-sampling ARGS=...", description=__doc__)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--batches", type=int, default=21)
    arguments = parser.parse_args()
    operators = find_operators("auto")
    draws = None if operators is None else operators.draws
    with computing(arguments.sequences) as logits:
        rows = logits()
        print(f"{len(rows)} sequences, vocabulary {len(rows[0]):,}, ms a step{'core':>30} kernels, 2 threads")
        for kind in KINDS:
            states = [sampler.SamplingState(SamplingParams(seed=place, **kind), range(200)) for place in range(len(rows))]
            told = ", ".join(f"{name} {value}" for name, value in kind.items())
            ways: list[Callable[[Rows], object]] = [lambda rows, states=states: sampler.sample(list(rows), states)]
            if draws is not None:
                ways += [
                    lambda rows, states=states, threads=threads: draws.draw(rows, [state.draw() for state in states], threads=threads)
                    for threads in (1, 2)
                ]
            print(f"{told:60}", *(f"{figure:7.2f}" for figure in _milliseconds(ways, logits, arguments.batches)), flush=True)


@contextlib.contextmanager
def computing(count: int) -> Iterator[Callable[[], Rows]]:
    """What computes the logits after the last ``count`` tokens of a text, as the engine's own thread does."""
    loader = {"use": "onnx", "threads": 2}
    with llmasos.load_model("smollm2", loader=loader, context_length=max(256, count)) as model, model._host.lease() as running:
        tokens = model.encode(pydoc_data.topics.topics["assignment"])[: max(200, count)]
        engine = running.loop._engine
        slot = engine.open()
        engine.step([Row(slot, tokens[:-count], 0, "none")])

        def logits() -> Rows:
            engine.truncate(slot, len(tokens) - count)
            (found,) = engine.step([Row(slot, tokens[-count:], len(tokens) - count, "all")])
            return found

        yield logits
        engine.close(slot)


def _milliseconds(ways: Sequence[Callable[[Rows], object]], logits: Callable[[], Rows], batches: int) -> list[float]:
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(batches):
        for way, found in zip(ways, seconds, strict=True):
            rows = logits()
            began = time.perf_counter()
            way(rows)
            found.append(time.perf_counter() - began)
    return [statistics.median(found) * 1e3 for found in seconds]


if __name__ == "__main__":
    main()

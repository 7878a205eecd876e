"""Processor time that guards add to eight answers at once. Run with `make bench-guards`.

Processor time of the whole process, not time on the clock: it is nearly the same on a busy machine. Pipelines with and without guards take
turns.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import llmasos

_CANARY = {"use": "injection", "canary": "otter-7f3a-91c2-e05d"}
GUARDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "none": (),
    "privacy": ({"use": "privacy"},),
    "injection": (_CANARY,),
    "both": ({"use": "privacy"}, _CANARY),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="smollm2")
    arguments.add_argument("--tokens", type=int, default=48)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--repeat", type=int, default=7)
    given = arguments.parse_args()
    prompts = [
        [{"role": "user", "content": f"Write a long story about otter number {number} and its river."}] for number in range(given.batch)
    ]
    base = {"model": {"source": given.model}, "loader": {"use": "onnx", "threads": 1}}
    with contextlib.ExitStack() as stack:
        seconds: dict[str, list[float]] = {}
        pipelines = {}
        for name, guards in GUARDS.items():
            config = {**base, "guard": list(guards)} if guards else base
            pipelines[name] = stack.enter_context(llmasos.Pipeline.from_config(config))
            pipelines[name].model.batch(prompts, max_new_tokens=2)  # loads it
        for _ in range(given.repeat):
            for name, pipeline in pipelines.items():
                began = time.process_time()
                pipeline.model.batch(prompts, max_new_tokens=given.tokens, temperature=0.0)
                seconds.setdefault(name, []).append(time.process_time() - began)
    plain = statistics.median(seconds["none"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:10} {median:8.3f} s {median / plain - 1:+8.1%}")


if __name__ == "__main__":
    main()

"""Processor time that guards add to eight answers at once. Run with `make bench-guards`.

Processor time of the whole process, not time on the clock: it is nearly the same on a busy machine. Pipelines with and without guards take
turns, and what is printed is what guards add: a share of each turn's base, in brackets with what holds the true one 95 times in 100, and
microseconds a token. `whole` is for answers that are read at their end, `streamed` for those whose pieces are read as they come, by one
event loop. `none again` is the base once more, and tells how exact that is. The guard `topics` is not among them: it runs a model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llmasos
from benchmarks.intervals import ratio

_CANARY = {"use": "injection", "canary": "otter-7f3a-91c2-e05d"}
GUARDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "none": (),
    "none again": (),
    "privacy": ({"use": "privacy"},),
    "injection": (_CANARY,),
    "both": ({"use": "privacy"}, _CANARY),
}
Prompts = Sequence[list[dict[str, str]]]


def whole(model: llmasos.Model, prompts: Prompts, tokens: int) -> None:
    """Generate, and read each answer at its end."""
    model.batch(prompts, max_new_tokens=tokens, temperature=0.0, ignore_eos=True)


def streamed(model: llmasos.Model, prompts: Prompts, tokens: int) -> None:
    """Generate, and read each piece as it comes."""

    async def read(prompt: list[dict[str, str]]) -> None:
        async for _ in model.astream_text(prompt, max_new_tokens=tokens, temperature=0.0, ignore_eos=True):
            pass

    async def all_of_them() -> None:
        await asyncio.gather(*map(read, prompts))

    asyncio.run(all_of_them())


READERS: Mapping[str, Callable[[llmasos.Model, Prompts, int], None]] = {"whole": whole, "streamed": streamed}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="smollm2")
    arguments.add_argument("--tokens", type=int, default=48)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--repeat", type=int, default=9)
    given = arguments.parse_args()
    prompts = [
        [{"role": "user", "content": f"Write a long story about otter number {number} and its river."}] for number in range(given.batch)
    ]
    base = {"model": {"source": given.model}, "loader": {"use": "onnx", "threads": 1}}
    with contextlib.ExitStack() as stack:
        pipelines = {}
        for name, guards in GUARDS.items():
            config = {**base, "guard": list(guards)} if guards else base
            pipelines[name] = stack.enter_context(llmasos.Pipeline.from_config(config))
            pipelines[name].model.batch(prompts, max_new_tokens=2)  # loads it
        for reader, read in READERS.items():
            turns: list[dict[str, float]] = []
            for turn in range(given.repeat):
                names = list(GUARDS)[:: 1 if turn % 2 else -1]
                seconds = {}
                for name in names:
                    began = time.process_time()
                    read(pipelines[name].model, prompts, given.tokens)
                    seconds[name] = time.process_time() - began
                turns.append(seconds)
            base_seconds = [turn["none"] for turn in turns]
            for name in GUARDS:
                own = [turn[name] for turn in turns]
                share = ratio(own, base_seconds)
                added = (share.mean - 1) * statistics.median(base_seconds) / (given.batch * given.tokens)
                bounds = f"{share.low - 1:+.1%} to {share.high - 1:+.1%}"
                print(
                    f"{reader:9} {name:11} {statistics.median(own):8.3f} s {share.mean - 1:+8.1%} ({bounds}) {added * 1e6:+8.1f} us/token"
                )


if __name__ == "__main__":
    main()

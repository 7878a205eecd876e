"""``make soak``: ten minutes of random mixed traffic; memory, slots and threads at the end are what they were after the first minute.

Memory is the resident set of the process, in bytes, read at rest: no running requests, an empty prefix cache. Exits with 1 if it grew by
    more
than 5 %, a request gave a wrong answer, a slot leaked or a thread is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil

import llmasos
from llmasos.api.model import LanguageModel
from llmasos_hookspecs import LLMasOSError

#: Fraction by which memory may grow after the first minute.
GROWTH = 0.05
#: Memory is first read after so many seconds and calls, which a free machine does in that time, or after half of the run.
WARM_UP_SECONDS, WARM_UP_CALLS = 60.0, 100
#: Seconds until cancelled requests must have ended, on the busiest machine.
PATIENCE = 600.0
WORDS = ["river", "engine", "天气", "🙂", "museum", "because", "of", "the", "def f(x):\n", "1, 2, 3,", "bread"]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


class Traffic:
    """What callers do, each kind drawn at random. ``counts`` tells how often each was done."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._kinds: list[Callable[[random.Random], None]] = [
            *(self._generate, self._stream_and_leave, self._cancel, self._batch, self._several, self._schema, self._score, self._logits),
        ]

    def run(self, callers: int, seed: int, over: Callable[[], bool]) -> None:
        """Calls from so many threads at once, until it is over."""
        threads = [threading.Thread(target=self._call, args=(seed + n, over)) for n in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _call(self, seed: int, over: Callable[[], bool]) -> None:
        dice = random.Random(seed)
        while not over():
            kind = dice.choice(self._kinds)
            try:
                kind(dice)
            except (LLMasOSError, AssertionError) as error:
                with self._lock:
                    self.errors.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            with self._lock:
                self.counts[kind.__name__.strip("_")] += 1

    def _prompt(self, dice: random.Random) -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(1, 120)))

    def _generate(self, dice: random.Random) -> None:
        count = dice.randint(1, 48)
        found = self.model.generate(self._prompt(dice), max_new_tokens=count, temperature=dice.random(), top_p=0.9, ignore_eos=True)
        assert len(found.tokens) == count, f"{len(found.tokens)} tokens where {count} were asked for"

    def _stream_and_leave(self, dice: random.Random) -> None:
        stream = self.model.stream_text(self._prompt(dice), max_new_tokens=500, ignore_eos=True)
        for _ in range(dice.randint(0, 12)):
            next(stream, None)
        stream.close()

    def _cancel(self, dice: random.Random) -> None:
        async def give_up() -> None:
            task = asyncio.create_task(self.model.agenerate(self._prompt(dice), max_new_tokens=500, ignore_eos=True))
            await asyncio.sleep(dice.uniform(0, 0.5))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(give_up())

    def _batch(self, dice: random.Random) -> None:
        prompts = [self._prompt(dice) for _ in range(dice.randint(1, 6))]
        assert len(self.model.batch(prompts, max_new_tokens=dice.randint(1, 16))) == len(prompts)

    def _several(self, dice: random.Random) -> None:
        n = dice.randint(2, 4)
        assert len(self.model.generate(self._prompt(dice), n=n, max_new_tokens=8, temperature=1.0)) == n

    def _schema(self, dice: random.Random) -> None:
        found = self.model.generate(self._prompt(dice), schema=SCHEMA, max_new_tokens=48, temperature=1.0)
        assert found.finish_reason == "length" or isinstance(json.loads(found.text)["ok"], bool), found.text

    def _score(self, dice: random.Random) -> None:
        assert all(score.logprob <= 0 for score in self.model.score(self._prompt(dice), [" yes", " no, never"]))

    def _logits(self, dice: random.Random) -> None:
        tokens = self.model.tokenizer.encode(self._prompt(dice))[:64]
        assert self.model.logits(tokens).shape[0] == len(tokens)


def at_rest(model: LanguageModel) -> tuple[int, dict[str, Any]]:
    """Memory in bytes and the model's usage once nothing runs and the prefix cache is empty."""
    until = time.monotonic() + PATIENCE
    while (usage := model.usage())["running"] + usage["waiting"] and time.monotonic() < until:
        time.sleep(0.05)
    with model._host.lease() as running:
        running.loop.forget_prefixes()
    gc.collect()
    return psutil.Process().memory_info().rss, model.usage()


def soak(source: str, loader: str, seconds: float, callers: int, seed: int) -> dict[str, Any]:
    """Run the traffic in two parts; what is at rest after the first is compared with what is after the second."""
    threads_before = {thread.name for thread in threading.enumerate()}
    with llmasos.load_model(source, loader=loader) as model:
        traffic = Traffic(model)
        began = time.monotonic()

        def warm() -> bool:
            passed = time.monotonic() - began
            return passed >= seconds / 2 or (passed >= WARM_UP_SECONDS and traffic.counts.total() >= WARM_UP_CALLS)

        traffic.run(callers, seed, warm)
        readings = [at_rest(model)]
        traffic.run(callers, seed + callers, lambda: time.monotonic() - began >= seconds)
        readings.append(at_rest(model))
        (first, _), (last, usage) = readings
    left = sorted(thread.name for thread in threading.enumerate() if thread.name not in threads_before)
    return {
        "memory_after_warm_up": first,
        "memory_at_end": last,
        "growth": last / first - 1,
        "calls": dict(traffic.counts),
        "errors": traffic.errors,
        "kv_left": usage["kv_used"],
        "unfinished": usage["running"] + usage["waiting"],
        "threads_left": left,
    }


def main() -> int:
    """Print the figures as JSON; 1 where one of the promises is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--loader", default="onnx")
    arguments = parser.parse_args()
    found = soak(arguments.model, arguments.loader, arguments.seconds, arguments.callers, arguments.seed)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    broken = found["growth"] > GROWTH or found["errors"] or found["kv_left"] or found["unfinished"] or found["threads_left"]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""The interface of a benchmarked engine, and the process in which each engine runs.

Engines do not share a process, because they would share thread pools, allocators and peak memory.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time
from typing import Any, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from benchmarks.workload import NEW_TOKENS, TimedRequest, Workload

Logits = npt.NDArray[np.float32]


class Driver(Protocol):
    """One engine, ready to be timed. Token ids in, times out; greedy throughout, no engine stops at an end token."""

    def prefill(self, prompt: list[int]) -> float:
        """Seconds until the logits of the prompt's last token are there."""
        ...

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Seconds for ``new_tokens`` greedy tokens of every prompt, all prompts together, after their prefill."""
        ...

    def weight_bytes(self) -> int:
        """Bytes of weights that the decoding of a token reads."""
        ...

    def logits(self, tokens: list[int]) -> Logits | None:
        """Logits [tokens, vocab] of a text; None where the engine does not give them out."""
        ...


class RequestDriver(Driver, Protocol):
    """A driver that also serves requests of mixed lengths."""

    def serve(self, requests: list[TimedRequest]) -> float:
        """Seconds until requests that are all there at once have their tokens, in the way of batching that suits the engine best."""
        ...


class ArrivalDriver(RequestDriver, Protocol):
    """A driver of an engine that requests can join while it runs."""

    def serve_arriving(self, requests: list[TimedRequest], *, slots: int, static: bool) -> float:
        """Seconds from the first arrival until every request has its tokens, no more than ``slots`` of them running at a time.

        ``static``: a batch begins when ``slots`` requests are there, or no more will come, and keeps its size until the longest of its
        answers is whole, as ``generate`` of a padded batch does.
        """
        ...


class EngineEnded(Exception):
    """An engine's process has ended; it has printed why."""


class EngineProcess:
    """A driver in a process of its own, which raises ``EngineEnded`` where that ends."""

    def __init__(self, module: str, options: dict[str, Any], workload: Workload) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.driver", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.loaded = self._ask("load", options=options, workload=attrs.asdict(workload))

    def ask(self, what: str, **arguments: Any) -> Any:
        """Call a method of the driver, or ``memory``."""
        return self._ask(what, **arguments)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _ask(self, what: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"what": what, **arguments}), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise EngineEnded(f"The engine's process ended with {self._process.wait()} while it was asked for {what}.")


def _serve(module: str) -> None:
    driver: Any = None
    workload: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("what")
        if what == "load":
            began = time.perf_counter()
            workload = Workload(**request["workload"])
            driver = importlib.import_module(module).Driver(workload, **request["options"])
            driver.prefill(workload.prompts[0])
            answer: Any = time.perf_counter() - began
        elif what == "memory":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        elif what == "logits":
            found = driver.logits(request["tokens"])
            if found is not None:
                np.save(request["path"], found)
            answer = found is not None
        elif what == "decode":
            answer = driver.decode(request["prompts"], NEW_TOKENS)
        elif what == "offers":
            answer = hasattr(driver, request["method"])
        elif what in ("serve", "serve_arriving"):
            answer = getattr(driver, what)(workload.requests, **request)
        else:
            answer = getattr(driver, what)(**request)
        print("answer", json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])

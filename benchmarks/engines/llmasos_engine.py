"""LLMasOS, the whole way: the model's own loop, scheduler and sampler around the loader's engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

import llmasos
from benchmarks.workload import NEW_TOKENS, TimedRequest, Workload
from llmasos_hookspecs import Engine, EngineInfo, Request, Row, SamplingParams
from llmasos_sched_fifo import Fifo, Options as FifoOptions

_STEP_TOKENS = 4096


@attrs.frozen
class Step:
    """When a step began and ended, and how many sequences and tokens it computed."""

    began: float
    ended: float
    rows: int
    tokens: int


class TimedEngine:
    """An engine that notes its steps by a clock, so that what the runtime adds can be told."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._engine = engine
        self._clock = clock
        self._noted: list[tuple[float, float, list[Row]]] = []

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def step(self, rows: list[Row]) -> list[npt.NDArray[np.float32]]:
        began = self._clock()
        found = self._engine.step(rows)
        self._noted.append((began, self._clock(), rows))  # and counted later: what follows is the runtime's time
        return found

    @property
    def steps(self) -> list[Step]:
        """Those since the last ``clear``."""
        return [Step(began, ended, len(rows), sum(len(row.tokens) for row in rows)) for began, ended, rows in self._noted]

    def clear(self) -> None:
        """Forget the steps so far."""
        self._noted.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Driver:
    """Times what a caller of the model waits for.

    Args:
        source: the workload's attribute that names the model.
        clock: of the engine's steps.
    """

    def __init__(
        self,
        workload: Workload,
        loader: dict[str, Any],
        source: str = "gguf",
        *,
        sequences: int = 32,
        context: int = 512,
        threads: int = 2,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        from llmasos.compose.composition import Composer

        timed: list[TimedEngine] = []
        make = Composer.engine_maker

        def engine_maker(composer: Composer, *arguments: Any, **options: Any) -> Any:
            loader, load = make(composer, *arguments, **options)

            def load_timed() -> Any:
                timed.append(TimedEngine(load(), clock))
                return timed[-1]

            return loader, load_timed

        Composer.engine_maker = engine_maker
        self._model = llmasos.load_model(
            getattr(workload, source),
            loader=loader,
            scheduler={"use": "fifo", "max_sequences": sequences, "step_tokens": _STEP_TOKENS},
            threads=threads,
            context_length=context,
        )
        self._engine = timed[0]
        self._sequences = sequences
        with self._model._host.lease() as running:
            self._loop = running.loop
        self._number = 0

    def prefill(self, prompt: list[int]) -> float:
        self._loop.forget_prefixes()
        began = time.perf_counter()
        self._loop.submit(self._request(prompt, 1)).result()
        return time.perf_counter() - began

    def prefill_steps(self, prompt: list[int]) -> float:
        """Seconds of the steps that compute a prompt."""
        self._engine.clear()
        self.prefill(prompt)
        return sum(step.ended - step.began for step in self._engine.steps)

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        """The clock starts when the last prompt has its first token, and stops when the last answer is whole."""
        self._loop.forget_prefixes()
        tickets = [self._loop.submit(self._request(prompt, new_tokens + 1)) for prompt in prompts]
        while len(tickets) > 1 and self._loop.usage().running < len(tickets):
            time.sleep(0.001)
        for ticket in tickets:
            next(iter(_Pieces(ticket)))
        began = time.perf_counter()
        for ticket in tickets:
            ticket.result()
        return time.perf_counter() - began

    def decode_steps(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
        """Mean seconds from one step that decodes a token of every prompt to the next, and those of them that the engine takes."""
        self._loop.forget_prefixes()
        self._engine.clear()
        for ticket in [self._loop.submit(self._request(prompt, new_tokens + 1)) for prompt in prompts]:
            ticket.result()
        steps = [step for step in self._engine.steps if step.rows == step.tokens == len(prompts)]
        count = len(steps) - 1
        return (steps[-1].began - steps[0].began) / count, sum(step.ended - step.began for step in steps[:-1]) / count

    def close(self) -> None:
        """Unload the model."""
        self._model.close()

    def serve(self, requests: list[TimedRequest]) -> float:
        """All at once; the loop batches them."""
        self._loop.forget_prefixes()
        began = time.perf_counter()
        for ticket in [self._loop.submit(self._request(each.prompt, each.new_tokens)) for each in requests]:
            ticket.result()
        return time.perf_counter() - began

    def serve_arriving(self, requests: list[TimedRequest], *, slots: int, static: bool) -> float:
        self._loop.forget_prefixes()
        self._use(slots)
        began, tickets = time.perf_counter(), []
        for place, each in enumerate(requests):
            time.sleep(max(0.0, began + each.arrival - time.perf_counter()))
            if not static:
                tickets.append(self._loop.submit(self._request(each.prompt, each.new_tokens)))
            elif (place + 1) % slots == 0 or place + 1 == len(requests):
                batch = requests[place // slots * slots : place + 1]
                longest = max(one.new_tokens for one in batch)
                tickets = [self._loop.submit(self._request(one.prompt, longest)) for one in batch]
                for ticket in tickets:
                    ticket.result()
        for ticket in tickets:
            ticket.result()
        seconds = time.perf_counter() - began
        self._use(self._sequences)
        return seconds

    def _use(self, sequences: int) -> None:
        self._loop.use_policy(Fifo(FifoOptions(max_sequences=sequences)), max_sequences=sequences, step_tokens=_STEP_TOKENS)

    def overhead(self, prompts: list[list[int]]) -> float:
        """What the runtime adds to the engine's own time in a decode, as a share of it."""
        whole, engine = self.decode_steps(prompts, NEW_TOKENS // 2)
        return whole / engine - 1

    def weight_bytes(self) -> int:
        return self._engine.info.weight_bytes

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """The first half as a prompt, the second as what follows one: engines may compute the two by different kernels.

        On a thread that ends, and its OpenMP pool with it: a pool left behind here halves what the loop's thread decodes with torch.
        """
        self._loop.forget_prefixes()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._logits, tokens).result()

    def _logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        half = len(tokens) // 2
        slot = self._engine.open()
        prompt = self._engine.step([Row(slot, tokens[:half], 0, "all")])[0].copy()
        following = self._engine.step([Row(slot, tokens[half:], half, "all", generated=True)])[0].copy()
        self._engine.close(slot)
        return np.concatenate((prompt, following))

    def _request(self, prompt: list[int], new_tokens: int) -> Request:
        self._number += 1
        return Request(
            id=f"bench-{self._number}",
            model="bench",
            tokens=prompt,
            max_new_tokens=new_tokens,
            arrival=time.monotonic(),
            sampling=SamplingParams(ignore_eos=True),
        )


class _Pieces:
    """A ticket's pieces, without ending the request when the reading ends."""

    def __init__(self, ticket: Any) -> None:
        self._ticket = ticket

    def __iter__(self) -> Any:
        while not self._ticket._pieces and not self._ticket.done:
            time.sleep(0.0002)
        yield from self._ticket._pieces[:1]

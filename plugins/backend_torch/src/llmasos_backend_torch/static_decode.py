"""Decode steps of fixed shapes, which can be replayed as a CUDA graph or run as one compiled program."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.llama import LlamaDecoder
from llmasos_backend_torch.plan import DecodeRun, StepPlan

_FIRST_SPAN: Final = 256

_log: Final = logging.getLogger("llmasos.torch")

#: Tokens [n], positions [n], cache rows to write to [n] and lengths [n] of cache rows 0 to n -> logits [n, vocab_size].
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
#: Turns a step and example arguments into a faster step.
Prepare = Callable[[Step, tuple[Tensor, ...]], Step]


@attrs.frozen(eq=False)
class _Program:
    """A step of one shape, bound to the cache tensors of its creation."""

    step: Step
    generation: int


class StaticDecoder:
    """A decoder that runs steps without prefill in fixed shapes; see ``engine.Decoder``.

    Such a step computes every cache row below a power of two, over a power of two of positions. A row that is not in the step writes
    into the cache's spare row and attends to one position; its result is discarded.

    Args:
        prepare: turns a step and example arguments into a CUDA graph or a compiled program.
    """

    separate_rows = False

    def __init__(self, decoder: LlamaDecoder, prepare: Prepare) -> None:
        self._decoder = decoder
        self._prepare = prepare
        self._programs: dict[tuple[int, int], _Program] = {}

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        rows = _power(1, plan.rows_used, cache.max_rows)
        if plan.hidden or plan.chunks or plan.total * 4 < rows:
            return self._decoder.forward(plan, cache)
        span = _power(_FIRST_SPAN, plan.span, cache.max_positions)
        cache.reserve(rows, span)
        given = _arguments(plan, rows, cache.spare_row)
        return self._program(rows, span, cache, given)(*given)[plan.decode_rows[plan.wanted]]

    def _program(self, rows: int, span: int, cache: KVCache, given: tuple[Tensor, ...]) -> Step:
        found = self._programs.get((rows, span))
        if found is None or found.generation != cache.generation:
            step = self._step(rows, span, cache)
            step(*given)  # allocates the layers' caches; the writes are repeated below
            found = _Program(self._prepare(step, given), cache.generation)
            self._programs[rows, span] = found
        return found.step

    def _step(self, rows: int, span: int, cache: KVCache) -> Step:
        decoder, window = self._decoder, self._decoder.window
        runs = (DecodeRun(0, 0, (span,) * rows),)

        def step(tokens: Tensor, positions: Tensor, writes: Tensor, lengths: Tensor) -> Tensor:
            at = torch.arange(span, device=tokens.device)
            seen = at < lengths[:, None]
            if window is not None:
                seen &= at >= lengths[:, None] - window
            mask = torch.zeros(seen.shape, dtype=decoder.dtype, device=tokens.device).masked_fill_(~seen, float("-inf"))
            plan = StepPlan(
                tokens=tokens,
                positions=positions,
                decode_rows=writes,
                runs=runs,
                chunks=(),
                wanted=tokens,
                results=(),
                span=span,
                longest=span,
                rows_used=rows,
                fixed_mask=mask[:, None, None],
                masks={},
            )
            return decoder.forward(plan, cache)

        return step


def _arguments(plan: StepPlan, rows: int, spare_row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = plan.tokens.device
    tokens, positions = (torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(2))
    writes = torch.full((rows,), spare_row, dtype=torch.int64, device=device)
    lengths = torch.ones(rows, dtype=torch.int64, device=device)
    tokens[plan.decode_rows] = plan.tokens
    positions[plan.decode_rows] = plan.positions
    writes[plan.decode_rows] = plan.decode_rows
    lengths[plan.decode_rows] = plan.positions + 1
    return tokens, positions, writes, lengths


def _power(size: int, needed: int, limit: int) -> int:
    while size < needed:
        size *= 2
    return min(size, limit)


def or_plain(prepare: Prepare) -> Prepare:
    """``prepare`` with a fallback: if it fails for another reason than memory, warn and use the step itself, which is correct but
    slower."""

    def prepared(step: Step, given: tuple[Tensor, ...]) -> Step:
        try:
            return prepare(step, given)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _log.warning("A decode step cannot be recorded, and runs more slowly as it is: %s", str(error).splitlines()[0])
            return step

    return prepared


def compiled(step: Step, given: tuple[Tensor, ...]) -> Step:
    """The step through torch.compile, which fuses the operations between matrix products."""
    made: Step = torch.compile(step, dynamic=False, options={"freezing": False})
    return made


def cuda_graph(step: Step, given: tuple[Tensor, ...]) -> Step:
    """The step as a CUDA graph: its kernels are recorded once, and a replay launches them all without Python between them."""
    inputs = tuple(argument.clone() for argument in given)
    with torch.cuda.device(inputs[0].device):  # streams and graphs belong to the current one
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm up aside, as recording allows no lazy initialisation
            for _ in range(2):
                step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # other models may run meanwhile
            logits = step(*inputs)

    def replay(*arguments: Tensor) -> Tensor:
        for kept, new in zip(inputs, arguments, strict=True):
            kept.copy_(new)
        graph.replay()
        return logits

    return replay

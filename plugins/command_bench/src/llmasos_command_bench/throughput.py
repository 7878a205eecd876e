"""The serving speed of a model end to end: through queue, scheduler and sampler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean, median

import attrs

from llmasos_command_bench.texts import texts
from llmasos_hookspecs import RequestError, TaskModel


@attrs.frozen(kw_only=True)
class Throughput:
    """One model at one number of requests at once: medians over ``rounds``.

    Attributes:
        batch: requests that were sent together.
        prompt_tokens, new_tokens: of each request, on average and exactly.
        ttft: seconds until every request has its first token.
        prefill: prompt tokens a second until then.
        decode: new tokens a second after that, over all requests.
    """

    batch: int
    prompt_tokens: float
    new_tokens: int
    rounds: int
    ttft: float
    prefill: float
    decode: float


def measure_throughput(
    models: Sequence[TaskModel], batches: Sequence[int], *, prompt_tokens: int = 128, new_tokens: int = 64, rounds: int = 3
) -> list[list[Throughput]]:
    """Figures [models][batches]. Each round measures the models in turn, so that load on the machine affects all of them alike.

    No two prompts share a prefix, so that the prefix cache has no hits. The first round is a warm-up and is not counted.

    Raises:
        RequestError: fewer than two new tokens, from which no decode rate follows; or what the model raises.
    """
    if new_tokens < 2:
        raise RequestError(f"new_tokens is {new_tokens}, and it must be at least 2: the first token belongs to prefill.")
    sources = [texts(model.tokenizer, prompt_tokens) for model in models]
    seen: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for turn in range(rounds + 1):
        for place, (model, prompts) in enumerate(zip(models, sources, strict=True)):
            for batch in batches:
                timed = _time(model, [next(prompts) for _ in range(batch)], [next(prompts) for _ in range(batch)], new_tokens)
                if turn:
                    seen.setdefault((place, batch), []).append(timed)
    return [[_median(batch, new_tokens, seen[place, batch]) for batch in batches] for place in range(len(models))]


def _time(model: TaskModel, short: list[str], long: list[str], new_tokens: int) -> tuple[float, float, float]:
    """Tokens of a prompt, seconds for prefill and first tokens, seconds for all other tokens."""
    began = time.perf_counter()
    model.batch(short, max_new_tokens=1, ignore_eos=True)
    first = time.perf_counter()
    done = model.batch(long, max_new_tokens=new_tokens, ignore_eos=True)
    both = time.perf_counter()
    return fmean(each.prompt_tokens for each in done), first - began, max(both - first - (first - began), 1e-9)


def _median(batch: int, new_tokens: int, seen: list[tuple[float, float, float]]) -> Throughput:
    tokens, ttft, rest = (median(column) for column in zip(*seen, strict=True))
    return Throughput(
        batch=batch,
        prompt_tokens=tokens,
        new_tokens=new_tokens,
        rounds=len(seen),
        ttft=ttft,
        prefill=batch * tokens / ttft,
        decode=batch * (new_tokens - 1) / rest,
    )

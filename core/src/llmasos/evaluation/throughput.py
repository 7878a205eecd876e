"""The serving speed of a model end to end: through queue, scheduler and sampler."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Final

import attrs
import numpy as np

from llmasos.evaluation.corpus import Corpus
from llmasos_hookspecs import RequestError

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel

#: Texts for prompts, used in a cycle.
_WINDOWS: Final = 160


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
    models: Sequence[LanguageModel], batches: Sequence[int], *, prompt_tokens: int = 128, new_tokens: int = 64, rounds: int = 3
) -> list[list[Throughput]]:
    """Figures [models][batches]. Each round measures the models in turn, so that load on the machine affects all of them alike.

    No two prompts share a prefix, so that the prefix cache has no hits. The first round is a warm-up and is not counted.

    Raises:
        RequestError: fewer than two new tokens, from which no decode rate follows; or what the model raises.
    """
    if new_tokens < 2:
        raise RequestError(f"new_tokens is {new_tokens}, and it must be at least 2: the first token belongs to prefill.")
    texts = [_texts(model, prompt_tokens) for model in models]
    seen: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for turn in range(rounds + 1):
        for place, (model, prompts) in enumerate(zip(models, texts, strict=True)):
            for batch in batches:
                timed = _time(model, [next(prompts) for _ in range(batch)], [next(prompts) for _ in range(batch)], new_tokens)
                if turn:
                    seen.setdefault((place, batch), []).append(timed)
    return [[_median(batch, new_tokens, seen[place, batch]) for batch in batches] for place in range(len(models))]


def _time(model: LanguageModel, short: list[str], long: list[str], new_tokens: int) -> tuple[float, float, float]:
    """Tokens of a prompt, seconds for prefill and first tokens, seconds for all other tokens."""
    began = time.perf_counter()
    model.batch(short, max_new_tokens=1, ignore_eos=True)
    first = time.perf_counter()
    done = model.batch(long, max_new_tokens=new_tokens, ignore_eos=True)
    both = time.perf_counter()
    return float(np.mean([each.prompt_tokens for each in done])), first - began, max(both - first - (first - began), 1e-9)


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


def _texts(model: LanguageModel, length: int) -> Iterator[str]:
    """Prompts of about ``length`` tokens, no two of which share a prefix."""
    tokenizer = model.tokenizer
    windows = Corpus.default().evaluation_windows(tokenizer, _WINDOWS, length - 3)
    for count, window in enumerate(itertools.cycle(windows), 1):
        # The number makes a text that comes again another one from its first token on.
        yield f"{count}. {tokenizer.decode(window.tolist())}"

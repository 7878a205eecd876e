"""Figures of one run of many streams at once, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks.intervals import median, ratio


@attrs.frozen(kw_only=True)
class Run:
    """What a client saw. Times are seconds.

    Attributes:
        seconds: from the first request to the last answer.
        tokens: generated, of all answers.
        first: until the first text of each stream, from when it was asked for.
        refused: until the answer 429 of each request that got it, from when it was sent.
        failed: requests that got anything else.
        cpu: of the server's process beside the engine's threads; None where nobody counted it.
        client_cpu: of the client's process, which has the same cores.
        total, answered: until the last answer, and the tokens of all; ``seconds`` and ``tokens`` may be of a part of them.
        late: by which the client sent each request after it was due, because it had no core.
    """

    seconds: float
    tokens: int
    first: Sequence[float] = ()
    refused: Sequence[float] = ()
    failed: int = 0
    cpu: float | None = None
    client_cpu: float = 0.0
    total: float = 0.0
    answered: int = 0
    late: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def per_token(self, seconds: float | None) -> str:
        """Microseconds a token; empty where nobody counted the seconds."""
        return f"{1e6 * seconds / self.tokens:.1f}" if seconds and self.tokens else ""


def best(runs: Sequence[Run]) -> Run:
    """The fastest of several rounds: what disturbs a machine only slows it down."""
    return max(runs, key=lambda run: run.rate)


def beside_the_engine(runs: Sequence[Run]) -> float | None:
    """Seconds of the server's processor time for each token, the median of several rounds; None where nobody counted them."""
    found = [run.cpu / run.tokens for run in runs if run.cpu is not None and run.tokens]
    return median(found)[0] if found else None


def share(values: Sequence[float], of: float) -> float:
    """The quantile ``of`` some times."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(of * len(ordered)))] if ordered else float("nan")


def sentence(runs: Mapping[str, Mapping[int, Sequence[Run]]]) -> str:
    """What the second way costs over the first, by pairs of runs that followed each other."""
    (reference, base), (name, other), *_ = runs.items()
    costs = [
        f"at {streams}: {ratio([run.rate for run in other[streams]], [run.rate for run in base[streams]]).shown('.3f')}" for streams in base
    ]
    return f"Throughput of {name} to {reference}, by streams at once: {', '.join(costs)}."


def first_token(runs: Mapping[str, Mapping[int, Sequence[Run]]]) -> str:
    """By how much later than in the first way one stream's first text comes in the second, by pairs of runs."""
    (reference, base), (name, other), *_ = ((name, found[1]) for name, found in runs.items())
    middle, low, high = median([1e3 * (one.first[0] - two.first[0]) for one, two in zip(other, base, strict=True)])
    return (
        f"First token of {name} after that of {reference}, one stream, the median of {len(base)} pairs: {middle:+.1f} ms"
        f" (95 %: {low:+.1f} to {high:+.1f})."
    )


def table(runs: Mapping[str, Mapping[int, Sequence[Run]]]) -> str:
    """A line for each count of streams and each way to be served; ratios, and what processor time is added, are to the first way. What is
    told is the fastest round's, but processor time beside the engine is the median of all: one round of one stream has few tokens."""
    lines = [
        "| streams | served by | tokens/s | ratio | first token p50 ms | p95 ms | CPU us/token beside the engine | added | of the client |",
        "|" + " --- |" * 9,
    ]
    (reference, *_) = runs
    for streams in next(iter(runs.values())):
        for name, found in runs.items():
            run, base = best(found[streams]), best(runs[reference][streams])
            cpu, of_base = beside_the_engine(found[streams]), beside_the_engine(runs[reference][streams])
            added = None if run is base or cpu is None or of_base is None else cpu - of_base
            cpus = " | ".join(["" if each is None else f"{1e6 * each:.1f}" for each in (cpu, added)] + [run.per_token(run.client_cpu)])
            first = " | ".join(f"{1e3 * share(run.first, quantile):.0f}" for quantile in (0.5, 0.95))
            lines.append(f"| {streams} | {name} | {run.rate:.1f} | {run.rate / base.rate:.3f} | {first} | {cpus} |")
    return "\n".join(lines)


def as_json(runs: Mapping[str, Mapping[int, Sequence[Run]]]) -> dict[str, Any]:
    """Every figure."""
    return {name: {str(streams): [attrs.asdict(run) for run in found] for streams, found in each.items()} for name, each in runs.items()}

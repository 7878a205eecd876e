"""What is left of a server's throughput while more is asked than it can answer, and what becomes of the excess."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from benchmarks.serving.figures import Run, best, share
from benchmarks.serving.work import Work

#: How many times as many requests come as can be answered.
_TIMES: Final = 10
#: Requests for each slot while streams are kept running, and under overload: some four rounds of answers.
_KEPT, _EXCESS = 4, 45


@attrs.frozen(kw_only=True)
class Overload:
    """Runs in turn: as many streams as the server has slots, kept running, and requests that come many times as fast.

    Attributes:
        peak: tokens a second, the most of any number of streams.
    """

    slots: int
    peak: float
    kept: Sequence[Run]
    over: Sequence[Run]

    def sentence(self) -> str:
        kept, over = best(self.kept), best(self.over)
        assert kept.cpu is not None
        assert over.cpu is not None
        of_kept, of_peak = (
            f"{over.rate / rate:.3f}" if rate and over.rate else "unknown" for rate in (kept.rate, max(self.peak, kept.rate))
        )
        half, most = (f"{1e3 * share(over.refused, quantile):.0f}" for quantile in (0.5, 0.95))
        return (
            f"{len(over.late)} requests, {_TIMES} times as fast as they can be answered, where {2 * self.slots} may run and wait:"
            f" {over.rate:.1f} tokens/s. Of the {kept.rate:.1f} of {self.slots} streams that are kept running without an excess: {of_kept}."
            f" Of the highest throughput of all: {of_peak}. {len(over.refused)} are refused, half of them within {half} ms and 95 % within"
            f" {most} ms; {over.failed} failed. Of one core the server takes {over.cpu / over.total:.2f} beside its engine, and"
            f" {kept.cpu / kept.total:.2f} without the excess; the client takes {over.client_cpu / over.total:.2f}, and sends 95 % within"
            f" {1e3 * share(over.late, 0.95):.0f} ms of when they are due."
        )


def overloaded(ask: Callable[[Work], Run], work: Work, peak: float, rounds: int) -> Overload:
    """Ask for streams such as those of ``work``, in ``rounds`` of both kinds of run. ``peak``: tokens a second at the best."""
    kept, over = list[Run](), list[Run]()
    rate = _TIMES * peak / work.tokens
    for number in range(1, rounds + 1):
        for requests, more, runs in ((_KEPT * work.slots, 0.0, kept), (_EXCESS * work.slots, rate, over)):
            runs.append(ask(attrs.evolve(work, requests=requests, rate=more)))
            work = attrs.evolve(work, first=work.first + requests)
        print(f"overload {number} of {rounds}", file=sys.stderr, flush=True)
    return Overload(slots=work.slots, peak=peak, kept=kept, over=over)

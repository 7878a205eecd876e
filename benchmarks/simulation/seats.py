"""Requests through the real router to modelled seats, on a virtual clock."""

from __future__ import annotations

import heapq
import time
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Request
from llmasos_replicas.routing import Backlogs, Router

#: Prompts begin with one of so many texts (system messages, documents) for each seat; Zipf's law says how often each.
_TEXTS: int = 4
_TEXT_TOKENS: int = 256


@attrs.frozen(kw_only=True)
class Seat:
    """How fast a modelled seat is: tokens a second of prompts and of answers, and sequences that it computes at once."""

    prefill: float = 10_000.0
    decode: float = 60.0
    sequences: int = 16


@attrs.frozen(kw_only=True)
class Routed:
    """What became of the requests.

    Attributes:
        decisions: processor seconds of each choice of a seat: float64 [requests].
        first: virtual seconds until each request's prompt was computed: float64 [requests].
        cached: share of the requests whose text the chosen seat had computed before.
        most: the largest backlog of a seat over the mean of all seats, in tokens, on average over the run.
    """

    decisions: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    cached: float
    most: float


def route(*, seats: int, requests: int, load: float, seed: int, seat: Seat | None = None) -> Routed:
    """Send ``requests`` to ``seats`` at ``load``, a part of what they can compute together."""
    seat = seat or Seat()
    rng = np.random.default_rng(seed)
    texts = seats * _TEXTS
    shares = 1 / np.arange(1, texts + 1) ** 0.8
    which = rng.choice(texts, requests, p=shares / shares.sum())
    own = np.clip(rng.lognormal(4.0, 0.8, requests), 4, 2048).astype(int)
    answers = np.clip(rng.geometric(1 / 64, requests), 1, 512).astype(int)
    # The seconds of a seat's time that a request takes: its own part of the prompt, and its share of the steps that decode it.
    work = own / seat.prefill + answers / (seat.decode * seat.sequences)
    arrivals = np.cumsum(rng.exponential(work.mean() / (load * seats), requests))

    router, backlogs = Router(seed), Backlogs(dict.fromkeys(range(seats), 0))
    prefixes = [tuple(range(each * 7, each * 7 + _TEXT_TOKENS)) for each in range(texts)]
    free = np.zeros(seats)  # when each seat has computed what it has
    known: list[set[int]] = [set() for _ in range(seats)]
    ending: list[tuple[float, int, int]] = []
    decisions, first = np.empty(requests), np.empty(requests)
    cached, most = 0, []
    for number in range(requests):
        now = float(arrivals[number])
        while ending and ending[0][0] <= now:
            _, chosen, tokens = heapq.heappop(ending)
            backlogs.change(chosen, -tokens)
        text = int(which[number])
        prompt = prefixes[text] + tuple(range(int(own[number])))
        request = Request(id=str(number), model="m", tokens=prompt, max_new_tokens=int(answers[number]), arrival=now)
        start = time.thread_time()
        chosen = router.choose(request, backlogs)
        decisions[number] = time.thread_time() - start
        tokens = len(prompt) + int(answers[number])
        backlogs.change(chosen, tokens)
        hit = text in known[chosen]
        cached += hit
        known[chosen].add(text)
        begins = max(now, free[chosen])
        free[chosen] = begins + work[number] + (0.0 if hit else _TEXT_TOKENS / seat.prefill)
        first[number] = begins - now + (int(own[number]) + (0 if hit else _TEXT_TOKENS)) / seat.prefill
        heapq.heappush(ending, (float(free[chosen]), chosen, tokens))
        if number % 1000 == 999:
            loads = [backlogs[each] for each in range(seats)]
            most.append(max(loads) / max(1.0, sum(loads) / seats))
    return Routed(decisions=decisions, first=first, cached=cached / requests, most=float(np.mean(most)) if most else 0.0)


def row(seats: int, routed: Routed) -> dict[str, Any]:
    """The figures of a run."""
    spent = routed.decisions * 1e3
    p50, p99, p999 = (float(np.quantile(spent, q)) for q in (0.5, 0.99, 0.999))
    return {
        "seats": seats,
        "requests": len(spent),
        "decision_p50_ms": p50,
        "decision_p99_ms": p99,
        "decision_p999_ms": p999,
        "ttft_p50": float(np.median(routed.first)),
        "ttft_p99": float(np.quantile(routed.first, 0.99)),
        "cached": routed.cached,
        "most": routed.most,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a number of seats a row."""
    lines = [
        "| seats | requests | decision p50 ms | p99 ms | p99.9 ms | TTFT p50 s | p99 s | text cached % | largest backlog / mean |",
        "| --- " * 9 + "|",
    ]
    for each in rows:
        cells = [
            f"{each['seats']:,}",
            f"{each['requests']:,}",
            *(f"{each[key]:.3f}" for key in ("decision_p50_ms", "decision_p99_ms", "decision_p999_ms", "ttft_p50", "ttft_p99")),
            f"{100 * each['cached']:.0f}",
            f"{each['most']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

"""What came of it: figures, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from simulation.run import Outcome
from simulation.traffic import FLOOD, Traffic

#: Columns of the tables: key, heading, format.
COLUMNS: Sequence[tuple[str, str, str]] = (
    ("ttft_p50", "TTFT p50 s", ".3f"),
    ("ttft_p95", "p95 s", ".3f"),
    ("ttft_p99", "p99 s", ".3f"),
    ("jain", "Jain", ".3f"),
    ("tokens_per_second", "tokens/s", ".0f"),
    ("late", "late %", ".1f"),
    ("urgent_p95", "urgent p95 s", ".3f"),
    ("short_p95", "short p95 s", ".3f"),
    ("refused", "refused", "d"),
    ("preemptions", "preempted", "d"),
    ("decision_p50_ms", "decision p50 ms", ".3f"),
    ("decision_p99_ms", "p99 ms", ".3f"),
)


def jain(values: npt.NDArray[np.float64]) -> float:
    """Jain's fairness index: 1 where all get the same, 1/n where one gets all (Jain, Chiu and Hawe, 1984)."""
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


def figures(traffic: Traffic, outcome: Outcome) -> dict[str, Any]:
    """Figures of all tenants except the flooding one. Fairness is Jain's index of the tenants' speeds: tokens a second of the time that
    their requests were waiting or running."""
    quiet = traffic.tenants != FLOOD
    served = quiet & ~np.isnan(outcome.finished)
    ttft = outcome.first - traffic.arrivals
    inside = outcome.finished - traffic.arrivals
    tenants = traffic.tenants[served]
    tokens = np.bincount(tenants, weights=(traffic.prompts + traffic.outputs)[served])
    seconds = np.bincount(tenants, weights=inside[served])
    due = served & ~np.isnan(traffic.deadlines)

    def quantile(which: npt.NDArray[np.bool_], q: float) -> float:
        return float(np.quantile(ttft[which], q)) if which.any() else 0.0

    return {
        "requests": int(quiet.sum()),
        "ttft_p50": quantile(served, 0.5),
        "ttft_p95": quantile(served, 0.95),
        "ttft_p99": quantile(served, 0.99),
        "jain": jain((tokens / np.maximum(seconds, 1e-9))[seconds > 0]),
        "tokens_per_second": float((traffic.prompts + traffic.outputs)[~np.isnan(outcome.finished)].sum() / outcome.seconds),
        "late": 100 * float((inside[due] > traffic.deadlines[due]).mean()) if due.any() else 0.0,
        "urgent_p95": quantile(served & (traffic.priorities == 2), 0.95),
        "short_p95": quantile(served & (traffic.prompts + traffic.limits < 80), 0.95),
        "refused": outcome.refused,
        "preemptions": outcome.preemptions,
        "computed_tokens": outcome.computed,
        "seconds": outcome.seconds,
        "most_waiting": outcome.busiest,
        "decision_p50_ms": float(np.median(outcome.decisions)) * 1e3,
        "decision_p99_ms": float(np.quantile(outcome.decisions, 0.99)) * 1e3,
        "ttft_quantiles": [float(value) for value in np.quantile(ttft[served], np.linspace(0, 1, 201))],
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table, a policy a row."""
    lines = ["| policy | " + " | ".join(heading for _, heading, _ in COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(format(row[key], form) for key, _, form in COLUMNS) + " |")
    return "\n".join(lines)


def plots(results: Mapping[str, Mapping[str, Mapping[str, Any]]], folder: Path) -> list[Path]:
    """TTFT distributions, fairness and throughput, a panel a scenario."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []
    shares = np.linspace(0, 100, 201)
    figure, axes = pyplot.subplots(1, len(results), figsize=(5 * len(results), 4), sharey=True)
    for axis, (scenario, rows) in zip(np.atleast_1d(axes), results.items(), strict=True):
        for name, row in rows.items():
            axis.plot(np.maximum(row["ttft_quantiles"], 1e-3), shares, label=name)
        axis.set(title=scenario, xlabel="TTFT, seconds", xscale="log")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("% of requests")
    np.atleast_1d(axes)[-1].legend()
    made.append(_save(figure, folder / "ttft.png"))
    for key, label in (("jain", "Jain's index of the tenants' speeds"), ("tokens_per_second", "tokens a second")):
        figure, axis = pyplot.subplots(figsize=(7, 4))
        width = 0.8 / len(results)
        for place, (scenario, rows) in enumerate(results.items()):
            axis.bar(np.arange(len(rows)) + place * width, [row[key] for row in rows.values()], width, label=scenario)
        names = list(next(iter(results.values())))
        axis.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names)
        axis.set_ylabel(label)
        axis.legend()
        made.append(_save(figure, folder / f"{key}.png"))
    return made


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path

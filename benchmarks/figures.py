"""What was measured of each engine, as a table and as ratios to the peers."""

from __future__ import annotations

import statistics
from typing import Any

import attrs

from benchmarks.intervals import Interval, interval, ratio

#: Mean KL divergence up to which a row counts as the same model.
EXACT = 0.01


@attrs.define(kw_only=True)
class Figures:
    """One engine's row, one entry a round.

    Attributes:
        is_ours: whether it is LLMasOS, rather than a peer.
        prefill, decode: tokens a second of all sequences together; decode by batch size.
        requests: tokens a second over requests of mixed lengths that are all there at once.
        continuous, static: seconds until requests that arrive over time are answered, joining as they come and in static batches.
        overhead: what the runtime adds to the engine's own time in a decode, as a share of it; by batch size.
        first_load, load: seconds.
        memory: peak bytes.
        weight_bytes: that the decoding of a token reads.
    """

    is_ours: bool
    prefill: list[float] = attrs.field(factory=list)
    decode: dict[int, list[float]] = attrs.field(factory=dict)
    requests: list[float] = attrs.field(factory=list)
    continuous: list[float] = attrs.field(factory=list)
    static: list[float] = attrs.field(factory=list)
    overhead: dict[int, list[float]] = attrs.field(factory=dict)
    kl: float | None = None
    top1: float | None = None
    first_load: float = 0.0
    load: float = 0.0
    memory: int = 0
    weight_bytes: int = 0

    def forget_rounds(self) -> None:
        """Drop what was measured so far: engines warm up, and the machine too."""
        for rounds in (self.prefill, self.requests, self.continuous, self.static, self.decode, self.overhead):
            rounds.clear()


def table(figures: dict[str, Figures], batches: list[int], limits: Any = None, linear_weights: int = 0) -> str:
    """A line an engine; ``limits`` of the machine give the share that each reaches of them, in prefill and in decode at batch 1."""
    speeds = ["prefill", *(f"batch {batch}" for batch in batches), "requests", "continuous / static"]
    lines = [["engine", *speeds, "KL", "top-1", "of GEMM", "of bandwidth", "overhead", "first load s", "load s", "peak MB"]]
    for name, row in figures.items():
        lines.append(
            [
                name,
                _shown(row.prefill),
                *(_shown(row.decode.get(batch, [])) for batch in batches),
                _shown(row.requests),
                _times(ratio(row.static, row.continuous)) if row.static else "",
                "unknown" if row.kl is None else f"{row.kl:.4f}" + ("" if row.kl <= EXACT else " (not exact)"),
                "" if row.top1 is None else f"{row.top1:.1%}",
                _share(row.prefill, limits.prefill(linear_weights)) if limits and linear_weights else "",
                _share(row.decode.get(1, []), limits.decode(row.weight_bytes)) if limits and row.weight_bytes else "",
                " ".join(f"{_median(values, '.1%')} ({batch})" for batch, values in sorted(row.overhead.items())),
                f"{row.first_load:.1f}",
                f"{row.load:.1f}",
                f"{row.memory / 1e6:.0f}",
            ]
        )
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def ratios(figures: dict[str, Figures]) -> list[str]:
    """Each exact row of ours against each exact peer: the mean of the ratios within each round, and the interval of the true one."""
    lines = []
    for ours, row in figures.items():
        if not row.is_ours or row.kl is None or row.kl > EXACT:
            continue
        for theirs, peer in figures.items():
            if peer.is_ours or peer.kl is None or peer.kl > EXACT:
                continue
            parts = [f"prefill {_times(ratio(row.prefill, peer.prefill))}"]
            parts += [f"batch {batch} {_times(ratio(row.decode[batch], peer.decode[batch]))}" for batch in row.decode]
            if row.requests and peer.requests:
                parts.append(f"requests {_times(ratio(row.requests, peer.requests))}")
            lines.append(f"{ours} / {theirs}: {', '.join(parts)}")
    return lines


def _median(values: list[float], form: str) -> str:
    return format(statistics.median(values), form) if values else ""


def _shown(values: list[float]) -> str:
    return interval(values).shown(".0f") if values else ""


def _times(found: Interval) -> str:
    return f"{found.shown('.2f')} x"


def _share(values: list[float], limit: float) -> str:
    return f"{interval(values).mean / limit:.0%}" if values else ""

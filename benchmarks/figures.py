"""What was measured of each engine, as a table and as ratios to the peers."""

from __future__ import annotations

import statistics

import attrs

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
        overhead: what the runtime adds to the engine's own time, as a share of it.
        first_load, load: seconds.
        memory: peak bytes.
    """

    is_ours: bool
    prefill: list[float] = attrs.field(factory=list)
    decode: dict[int, list[float]] = attrs.field(factory=dict)
    requests: list[float] = attrs.field(factory=list)
    continuous: list[float] = attrs.field(factory=list)
    static: list[float] = attrs.field(factory=list)
    overhead: list[float] = attrs.field(factory=list)
    kl: float | None = None
    top1: float | None = None
    first_load: float = 0.0
    load: float = 0.0
    memory: int = 0


def table(figures: dict[str, Figures], batches: list[int]) -> str:
    """A line an engine."""
    speeds = ["prefill", *(f"batch {batch}" for batch in batches), "requests", "continuous / static"]
    lines = [["engine", *speeds, "KL", "top-1", "overhead", "first load s", "load s", "peak MB"]]
    for name, row in figures.items():
        lines.append(
            [
                name,
                _median(row.prefill, ".0f"),
                *(_median(row.decode.get(batch, []), ".0f") for batch in batches),
                _median(row.requests, ".0f"),
                _ratio(row.static, row.continuous) if row.static else "",
                "unknown" if row.kl is None else f"{row.kl:.4f}" + ("" if row.kl <= EXACT else " (not exact)"),
                "" if row.top1 is None else f"{row.top1:.1%}",
                _median(row.overhead, ".1%"),
                f"{row.first_load:.1f}",
                f"{row.load:.1f}",
                f"{row.memory / 1e6:.0f}",
            ]
        )
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def ratios(figures: dict[str, Figures]) -> list[str]:
    """Each exact row of ours against each peer, the median of the ratios within each round."""
    lines = []
    for ours, row in figures.items():
        if not row.is_ours or row.kl is None or row.kl > EXACT:
            continue
        for theirs, peer in figures.items():
            if peer.is_ours:
                continue
            parts = [f"prefill {_ratio(row.prefill, peer.prefill)}"]
            parts += [f"batch {batch} {_ratio(row.decode[batch], peer.decode[batch])}" for batch in row.decode]
            if row.requests and peer.requests:
                parts.append(f"requests {_ratio(row.requests, peer.requests)}")
            lines.append(f"{ours} / {theirs}: {', '.join(parts)}")
    return lines


def _median(values: list[float], form: str) -> str:
    return format(statistics.median(values), form) if values else ""


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f} x"

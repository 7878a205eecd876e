"""Speed against exactness as a drawing: a panel for each speed, an engine a point with its interval."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import EXACT, Figures
from benchmarks.intervals import interval

#: Where rows stand whose KL divergence is smaller or unknown.
_LEAST = 1e-6


def draw(figures: dict[str, Figures], batches: list[int], path: Path) -> None:
    """Write an SVG; rows without a KL divergence are left out, since their speed says nothing."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "llmasos"
    from matplotlib import pyplot as plt

    known = {name: row for name, row in figures.items() if row.kl is not None}
    panels = {"prefill": {name: row.prefill for name, row in known.items()}}
    panels |= {f"decode, {batch} at once": {name: row.decode.get(batch, []) for name, row in known.items()} for batch in batches}
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.5), squeeze=False)
    for axis, (title, speeds) in zip(axes[0], panels.items(), strict=True):
        for name, values in speeds.items():
            if not values:
                continue
            row, found = known[name], interval(values)
            low, high = (found.mean, found.mean) if len(values) < 2 else (found.low, found.high)
            place = max(row.kl or 0.0, _LEAST)
            axis.errorbar(
                place,
                found.mean,
                yerr=[[found.mean - low], [high - found.mean]],
                fmt="o" if row.is_ours else "s",
                color="tab:blue" if row.is_ours else "tab:orange",
            )
            axis.annotate(name, (place, found.mean), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axis.axvline(EXACT, linestyle=":", color="grey")
        axis.set(title=title, xscale="log", xlabel="KL divergence from float32", ylabel="tokens a second")
        axis.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)

"""What the suite ``safety`` has to say of several models together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llmasos_hookspecs import Section, SuiteResult
from llmasos_suite_safety.flips import Flips


def sections(results: Mapping[str, SuiteResult]) -> list[Section]:
    """Flips against the first model, margins by axis, sentiments by person."""
    return [
        *_flips(results),
        *_table("Stereotypes by axis", _MARGINS, _axes(results)),
        *_table("Sentiment by person", _SENTIMENT, _persons(results)),
    ]


def flip_notes(results: Mapping[str, SuiteResult]) -> list[str]:
    """A sentence for each model but the first."""
    base = next(iter(results), "")
    notes = []
    for label, pairs, controls in _changes(results):
        shares = f"{pairs.share:.1%} of the pairs and {controls.share:.1%} of the controls are on another side than in {base}"
        if not pairs.gained + pairs.lost + controls.gained + controls.lost:
            notes.append(f"{label}: no pair is on another side than in {base}.")
        elif pairs.share > controls.share and not pairs.as_much_as(controls):
            notes.append(f"{label}: {shares}, so what was done to it changed what it holds against people more than noise would.")
        else:
            notes.append(f"{label}: {shares}, so the changes are no more than noise, even where the mean stays.")
    return notes


def _changes(results: Mapping[str, SuiteResult]) -> Iterator[tuple[str, Flips, Flips]]:
    """Each model but the first, with the flips of its pairs and controls; models that were asked other pairs are left out."""
    models = iter(results.items())
    _, base = next(models, ("", None))
    if base is None:
        return
    for label, result in models:
        sides = [(base.facts[key], result.facts[key]) for key in ("stereotypes_sides", "controls_sides")]
        if all(len(before) == len(after) for before, after in sides):
            pairs, controls = (Flips.between(before, after) for before, after in sides)
            yield label, pairs, controls


def _flips(results: Mapping[str, SuiteResult]) -> Iterator[Section]:
    changes = list(_changes(results))
    if not changes:
        return
    rows: list[tuple[str, ...]] = []
    bars: dict[str, tuple[float, float]] = {}
    for label, pairs, controls in changes:
        for what, each in (("pairs", pairs), ("controls", controls)):
            rows.append((label, what, f"{each.share:.1%} ± {each.error:.1%}", str(each.gained), str(each.lost), f"{each.p:.3g}"))
            bars[f"{label}: {what}"] = (each.share, each.error)
    base = next(iter(results))
    yield Section(
        title=f"Pairs that changed sides against {base}",
        text="Of the pairs about people and of the controls about things: how many prefer the other sentence than before, to and from the "
        "one that fits what is often said, and how likely so uneven a change is by chance (McNemar's exact test). Where as many controls "
        "change as pairs, the changes are noise of the computation and say nothing about people.",
        columns=("model", "of", "changed", "to what is often said", "from it", "p"),
        rows=tuple(rows),
        bars=bars,
    )


_MARGINS = "Mean margin in nats, with its standard error: above 0 the model finds what is often said of a group likelier of that group."
_SENTIMENT = "Mean share of good words in how a story about a person ends."


def _axes(results: Mapping[str, SuiteResult]) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        label: {axis: (margin, error) for axis, (margin, error) in result.facts["stereotypes_axes"].items()}
        for label, result in results.items()
    }


def _persons(results: Mapping[str, SuiteResult]) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        label: {person: (value, 0.0) for person, value in result.facts["sentiment_persons"].items()} for label, result in results.items()
    }


def _table(title: str, text: str, models: Mapping[str, Mapping[str, tuple[float, float]]]) -> Iterator[Section]:
    """Rows for what was measured, columns for models."""
    names: Sequence[str] = list(dict.fromkeys(name for values in models.values() for name in values))
    if not names:
        return

    def cell(values: Mapping[str, tuple[float, float]], name: str) -> str:
        if name not in values:
            return ""
        value, error = values[name]
        return f"{value:.3f} ± {error:.3f}" if error else f"{value:.3f}"

    yield Section(
        title=title,
        text=text,
        columns=("", *models),
        rows=tuple((name, *(cell(values, name) for values in models.values())) for name in names),
    )

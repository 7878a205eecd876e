"""What each model of a report gained and lost against the first, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from llmasos_hookspecs import Figure, FigureColumn, Measurement

#: Standard errors of a difference within which two values are told as the same.
_ERRORS: Final = 2.0
#: From this ratio on a change is told as a multiple, below it in per cent.
_MULTIPLE: Final = 2.0


@attrs.frozen(kw_only=True)
class Verdict:
    """One model beside the first.

    Attributes:
        label: of the model.
        base: what it is compared with.
        gained, lost: figures that are better or worse, with both values and the change.
        same: headings of those that are equal, or within two standard errors of it.
        precision: which figures are compared with another model than ``base``, or with none, and why; empty where all are compared with it.
    """

    label: str
    base: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    same: tuple[str, ...]
    precision: str = ""


def verdicts(models: Mapping[str, Measurement], columns: Sequence[FigureColumn]) -> Iterator[Verdict]:
    """A verdict for every model but the first, the base.

    Speed and bytes follow from the precision more than from what was done to a model, so they are compared at equal precision: with the
    base, or else with the nearest model before that was computed from the same type.
    """
    earlier: list[str] = []
    for label, found in models.items():
        if earlier:
            yield _verdict(label, found, earlier, models, columns)
        earlier.append(label)


def _verdict(
    label: str, found: Measurement, earlier: Sequence[str], models: Mapping[str, Measurement], columns: Sequence[FigureColumn]
) -> Verdict:
    base, peer = earlier[0], _peer(found, earlier, models)
    told: dict[str, list[str]] = {"gained": [], "lost": [], "same": []}
    moved = []
    for column in columns:
        now = column.figure(found.results)
        bound = now is not None and _follows_precision(now)
        if bound and peer != base and column.figure(models[base].results) is not None:
            moved.append(column.heading)
        beside = peer if bound else base
        before = None if beside is None else column.figure(models[beside].results)
        if now is None or before is None or now.better is None or math.isnan(now.value) or math.isnan(before.value):
            continue
        outcome = _outcome(before, now)
        told[outcome].append(column.heading if outcome == "same" else f"{column.heading} {_change(before, now)}")
    precision = ""
    if moved:
        beside = "with no other model" if peer is None else f"with {peer}, at the same precision"
        figures = f"{', '.join(moved)} {_are(moved)} compared {beside}"
        precision = f"{base} was computed from {models[base].dtype} and this from {found.dtype}: {figures}."
    return Verdict(label=label, base=base, precision=precision, **{name: tuple(each) for name, each in told.items()})


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _peer(found: Measurement, earlier: Sequence[str], models: Mapping[str, Measurement]) -> str | None:
    """The base if it was computed from the same type, else the nearest earlier model that was, else None."""
    same = [label for label in earlier if models[label].dtype == found.dtype]
    if not same:
        return None
    return same[0] if same[0] == earlier[0] else same[-1]


def _follows_precision(figure: Figure) -> bool:
    return figure.unit == "B" or not figure.repeatable


def _outcome(before: Figure, now: Figure) -> str:
    noise = _ERRORS * math.hypot(before.error or 0.0, now.error or 0.0)
    if before.value == now.value or abs(now.value - before.value) <= noise:
        return "same"
    return "gained" if (now.value < before.value) == (now.better == "lower") else "lost"


def _change(before: Figure, now: Figure) -> str:
    """``26.1 MB → 13.0 MB (50% less)``; the change is left out where it has no ratio."""
    both = f"{before.shown(before.value)} → {now.shown(now.value)}"
    if not (math.isfinite(now.value) and math.isfinite(before.value) and now.value > 0 and before.value > 0):
        return both
    ratio = now.value / before.value
    if ratio >= _MULTIPLE:
        return f"{both} ({ratio:.1f} times)"
    if ratio <= 1 / _MULTIPLE:
        return f"{both} (1/{1 / ratio:.1f})"
    return f"{both} ({abs(ratio - 1):.1%} {'more' if ratio > 1 else 'less'})"

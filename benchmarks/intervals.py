"""Means of a few rounds, with the interval that holds the true one 95 times in 100."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import attrs

#: Student's t for 95 % of both sides by degrees of freedom; the last for all more.
_T = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.0)


@attrs.frozen
class Interval:
    """A geometric mean, and the factor by which the true one may be larger or smaller; infinite for a single value."""

    mean: float
    factor: float

    @property
    def low(self) -> float:
        return self.mean / self.factor

    @property
    def high(self) -> float:
        return self.mean * self.factor

    def shown(self, form: str) -> str:
        """``557 ±3%``."""
        mean = format(self.mean, form)
        return mean if math.isinf(self.factor) else f"{mean} ±{self.factor - 1:.0%}"


def interval(values: Sequence[float]) -> Interval:
    """Of speeds or of ratios, whose errors are factors: Student's t over their logarithms."""
    logs = [math.log(value) for value in values]
    count = len(logs)
    if count < 2:
        return Interval(math.exp(logs[0]), math.inf)
    error = _T[min(count - 1, len(_T) - 1)] * statistics.stdev(logs) / math.sqrt(count)
    return Interval(math.exp(statistics.fmean(logs)), math.exp(error))


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The middle one, and the two between which the true one lies, from their order alone; the least and the most of few values."""
    ordered, count = sorted(values), len(values)
    aside = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return statistics.median(ordered), ordered[aside], ordered[count - 1 - aside]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Of two engines that were measured in turn: each round's ratio, so that what slowed both does not count."""
    return interval([one / two for one, two in zip(ours, theirs, strict=True)])

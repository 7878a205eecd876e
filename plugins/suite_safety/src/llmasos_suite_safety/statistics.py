"""Statistics that the measurements share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean of ``values``, of which those of one cluster are alike; 0 for a single cluster.

    Sentences from one template say much the same, so counting each as a draw of its own would promise more than there is. With the
    residuals ``e = value - mean`` summed in each of ``G`` clusters, it is ``sqrt(G / (G - 1) * sum of squared sums) / n`` (Liang and Zeger,
    1986; with the factor for few clusters).
    """
    residuals = np.asarray(values, dtype=np.float64)
    residuals = residuals - residuals.mean()
    sums: dict[Hashable, float] = {}
    for cluster, residual in zip(clusters, residuals.tolist(), strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + residual
    count = len(sums)
    if count < 2:
        return 0.0
    return math.sqrt(count / (count - 1) * sum(each * each for each in sums.values())) / len(residuals)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar, 1947): how likely it is that ``gained + lost`` changes divide as unevenly as
    these, where either direction is as likely as the other. 1 where nothing changed."""
    changes = gained + lost
    if not changes:
        return 1.0
    tail = sum(math.comb(changes, count) for count in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**changes))


def wasserstein(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Wasserstein-1 distance between two samples of equal size: the mean distance of their sorted values."""
    return float(np.abs(np.sort(first) - np.sort(second)).mean())


def vendi(similarities: npt.NDArray[np.float64]) -> float:
    """The Vendi score (Friedman and Dieng, 2023) of ``n`` samples: how many different ones there are, from 1 to n.

    ``similarities`` [n, n] is symmetric with ones on its diagonal; the score is ``exp(-sum(l * log(l)))`` over the eigenvalues ``l`` of
    ``similarities / n``.
    """
    values = np.linalg.eigvalsh(similarities / len(similarities))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The two-sample Kolmogorov-Smirnov statistic, the greatest distance between the two distribution functions, and its p-value by the
    asymptotic series ``2 * sum((-1)^(j-1) * exp(-2 j² z²))`` with ``z = (√n + 0.12 + 0.11 / √n) * D`` and ``n = n1 n2 / (n1 + n2)``
    (Stephens, 1970)."""
    one, two = np.sort(first), np.sort(second)
    places = np.concatenate([one, two])
    shares = (np.searchsorted(each, places, side="right") / len(each) for each in (one, two))
    distance = float(np.abs(np.subtract(*shares)).max())
    root = math.sqrt(len(one) * len(two) / (len(one) + len(two)))
    z = (root + 0.12 + 0.11 / root) * distance
    if z < 0.2:  # where the series converges slowly, and its sum is 1 to many digits
        return distance, 1.0
    series = sum((-1) ** (j - 1) * math.exp(-2 * j * j * z * z) for j in range(1, 101))
    return distance, min(1.0, max(0.0, 2 * series))

"""Whom to unload: the cheapest to lose among the idle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Candidate(Generic[T]):
    """A model that could go.

    Attributes:
        model: the model.
        size: bytes that its loss frees.
        cost: seconds to load it again, over the seconds it has not been used: what loses least goes first.
    """

    model: T
    size: int
    cost: float


def choose_victims(candidates: Sequence[Candidate[T]], missing: float) -> list[T] | None:
    """The models whose loss frees ``missing`` bytes at the least cost: the cheapest first, and none that is not needed in the end.

    None where all of them together do not free as much; empty where nothing is missing.
    """
    chosen: list[Candidate[T]] = []
    freed = 0
    for candidate in sorted(candidates, key=lambda candidate: candidate.cost):
        if freed >= missing:
            break
        chosen.append(candidate)
        freed += candidate.size
    if freed < missing:
        return None
    for candidate in sorted(chosen, key=lambda candidate: -candidate.cost):
        if freed - candidate.size >= missing:  # a larger one that had to go makes this loss needless
            chosen.remove(candidate)
            freed -= candidate.size
    return [candidate.model for candidate in chosen]

"""Which idle models to evict: those that are cheapest to load again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Candidate(Generic[T]):
    """A model that can be evicted.

    Attributes:
        model: the model.
        size: bytes that evicting it frees.
        cost: seconds to load it again, divided by the seconds since its last use; the least is evicted first.
    """

    model: T
    size: int
    cost: float


def choose_victims(candidates: Sequence[Candidate[T]], missing: float) -> list[T] | None:
    """The models to evict to free ``missing`` bytes: the cheapest first, without those that turn out to be unnecessary.

    None where all candidates together free less; empty where nothing is missing.
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
        if freed - candidate.size >= missing:  # a larger model that was chosen later makes this one unnecessary
            chosen.remove(candidate)
            freed -= candidate.size
    return [candidate.model for candidate in chosen]

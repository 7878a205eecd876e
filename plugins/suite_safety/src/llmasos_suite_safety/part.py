"""One measurement among those of the suite: what it asks a model, and what figures it makes of the answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from llmasos_hookspecs import Figure, TaskModel
from llmasos_suite_safety.asking import Scorer

T = TypeVar("T")


class Part(Protocol):
    """A measurement.

    Attributes:
        name: the key of its values.
        questions: how many it asks.
    """

    @property
    def name(self) -> str: ...
    @property
    def questions(self) -> int: ...

    def ask(self, model: TaskModel, score: Scorer) -> list[float]:
        """Ask the model: plain numbers, which can be remembered."""
        ...

    def figures(self, values: Sequence[float]) -> tuple[Figure, ...]:
        """What they say."""
        ...


def some(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items, in their order: always the same ones, drawn at random, so that none of the lists that they are made of is
    preferred. All of them where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[place] for place in sorted(random.Random(count).sample(range(len(items)), count))]  # noqa: S311 - no secret

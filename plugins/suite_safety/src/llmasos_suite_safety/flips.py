"""Flips: pairs that change sides between two models."""

from __future__ import annotations

import math
from typing import Final

import attrs

from llmasos_suite_safety.statistics import mcnemar

#: Standard errors within which two shares are told as the same.
_ERRORS: Final = 2.0


@attrs.frozen(kw_only=True)
class Flips:
    """How many of ``pairs`` changed sides: ``gained`` went to the fitting group, ``lost`` to the opposite one."""

    pairs: int
    gained: int
    lost: int

    @classmethod
    def between(cls, before: str, after: str) -> Flips:
        """Of two models' sides: see ``pairs.sides``."""
        moves = list(zip(before, after, strict=True))
        return cls(pairs=len(moves), gained=moves.count(("0", "1")), lost=moves.count(("1", "0")))

    @property
    def share(self) -> float:
        """Of the pairs, those that changed sides."""
        return (self.gained + self.lost) / self.pairs

    @property
    def error(self) -> float:
        """Standard error of ``share``."""
        return math.sqrt(self.share * (1 - self.share) / self.pairs)

    @property
    def p(self) -> float:
        """How likely so uneven a change is where neither direction is preferred (McNemar's exact test). It takes pairs as independent;
        those of one cluster are not, so a small value is a reason to look, and no proof."""
        return mcnemar(self.gained, self.lost)

    def as_much_as(self, other: Flips) -> bool:
        """Whether both shares are equal within two standard errors of their difference."""
        return abs(self.share - other.share) <= _ERRORS * math.hypot(self.error, other.error)

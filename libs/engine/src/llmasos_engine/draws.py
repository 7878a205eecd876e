"""Random numbers that depend on the request alone."""

from __future__ import annotations

import functools
import secrets
from typing import Final

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    """The output function of SplitMix64 (Steele, Lea and Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@functools.lru_cache(maxsize=1024)
def _stream(seed: int) -> int:
    """Where the numbers of ``seed`` begin: the same for each token of a sequence."""
    return _mix(seed & _MASK)


def uniform(seed: int, index: int) -> float:
    """The ``index``-th number in [0, 1) of the stream of ``seed``, with 53 random bits.

    Counter-based: the batch composition, a preemption or a rejected draft cannot shift the stream, and no generator object is kept for
    each sequence.
    """
    return (_mix((_stream(seed) + (index + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53


def fresh_seed() -> int:
    """A random seed from the operating system, for requests without one."""
    return secrets.randbits(64)

"""Lists and mappings in one another, walked without a call for each level: input may be nested deeper than Python can call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def levels(value: Any) -> Iterator[list[Any]]:
    """A value, then what its lists and mappings hold, a level at a time; the names in a mapping are among what it holds."""
    level = [value]
    while level:
        yield level
        level = [part for each in level for part in _parts(each)]


def _parts(value: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple)) else ()

"""Amounts of memory as people write them."""

from __future__ import annotations

import re
from typing import Final

from llmasos_hookspecs.errors import ConfigError

_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000 ** (i + 1) for i, letter in enumerate("kmgt")},
    **{f"{letter}ib": 1024 ** (i + 1) for i, letter in enumerate("kmgt")},
}


def parse_size(value: int | str) -> int:
    """Bytes of a whole number or of a text such as ``6GiB``, ``500 MB`` or ``1.5GiB``.

    Raises:
        ConfigError: it is neither, or not above zero.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]*)", value.strip().lower())
        size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    else:
        size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if size <= 0:
        raise ConfigError(f'{value!r} is no amount of memory; write bytes, or a number with a unit such as "6GiB" or "500MB".')
    return size


def size_in_words(size: float) -> str:
    """Bytes for people: ``94.6 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

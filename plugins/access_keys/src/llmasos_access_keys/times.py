"""Times as users write and read them; all are UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from llmasos_hookspecs import RequestError

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """A span such as ``90s``, ``15m``, ``12h`` or ``30d``, in seconds. Raises ``RequestError``."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip(), re.ASCII)
    if match is None:
        raise RequestError(f"{text!r} is no span of time; write a number with s, m, h or d, such as 30d.")
    return int(match[1]) * _UNITS[match[2]]


def time_of(text: str, now: float) -> float:
    """A span from now, or a date or time of UTC such as ``2027-01-31`` or ``2027-01-31T12:00``, in seconds since the epoch. Raises
    ``RequestError``."""
    if re.fullmatch(r"[0-9]+[smhd]", text.strip(), re.ASCII):
        return now + seconds_of(text)
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise RequestError(f"{text!r} is no time; write a span such as 30d, or a time of UTC such as 2027-01-31T12:00.") from error


def shown(time: float | None) -> str | None:
    """A time as ``2027-01-31T12:00:00Z``; None: none."""
    if time is None:
        return None
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time:.0f} s"

"""Rows in runs of like length, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmasos_hookspecs import EncoderInfo, EncoderRow

#: Largest share of a run that may be padding, and the tokens up to which a run grows whatever its padding: a run of few tokens costs about
#: as much as one of some more.
_PADDING: Final = 0.05
_FEW: Final = 256


def check_rows(rows: Sequence[EncoderRow], info: EncoderInfo) -> None:
    """Raise ``ValueError`` for rows that the contract forbids."""
    for row in rows:
        size = len(row.tokens)
        if not 0 < size <= info.context_length:
            raise ValueError(f"A row has {size} tokens, and from 1 to {info.context_length} are taken.")
        if not 0 <= min(row.tokens) <= max(row.tokens) < info.vocab_size:
            raise ValueError(f"A row holds a token outside 0 .. {info.vocab_size - 1}.")
        if row.types and len(row.types) != size:
            raise ValueError(f"A row has {size} tokens and {len(row.types)} types.")


def runs_of(rows: Sequence[EncoderRow], most: int, *, alike: bool = False) -> list[list[int]]:
    """The places of all rows, in runs of like length and of at most ``most`` tokens, padding included; ``alike``: without any padding."""
    runs: list[list[int]] = []
    tokens = longest = 0
    for place in sorted(range(len(rows)), key=lambda place: -len(rows[place].tokens)):
        size = len(rows[place].tokens)
        run = runs[-1] if runs else []
        padded = longest * (len(run) + 1)
        wasteful = size < longest if alike else padded > _FEW and tokens + size < (1 - _PADDING) * padded
        if not run or padded > most or wasteful:
            runs.append(run := [])
            tokens, longest = 0, size
        run.append(place)
        tokens += size
    return runs


def groups_of(rows: Sequence[EncoderRow], runs: Sequence[list[int]], most: int) -> list[list[list[int]]]:
    """Neighbours of ``runs_of(rows, most, alike=True)`` together, in groups of at most ``most`` tokens."""
    groups: list[list[list[int]]] = []
    tokens = 0
    for run in runs:
        size = len(run) * len(rows[run[0]].tokens)
        if not groups or tokens + size > most:
            groups.append([])
            tokens = 0
        groups[-1].append(run)
        tokens += size
    return groups

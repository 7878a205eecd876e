"""Keeps what a source fetches in the store of its context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmasos_hookspecs import Context, SourceError


def keep_fetched(context: Context, key: str, fill: Callable[[Path], tuple[str, str]]) -> Path:
    """What the store has under ``key``, else what ``fill`` fetches over the network (``ModelStore.fetch`` says what it returns).

    Raises:
        SourceError: the network may not be used.
    """
    found = context.store.find(key)
    if found is not None:
        return found
    if context.offline:
        raise SourceError(f"{key} is not in the model store, and this run is offline; run llmasos models pull {key} first.")
    return context.store.fetch(key, fill, waiting=lambda: context.note(f"Another process is fetching {key}; waiting for it."))

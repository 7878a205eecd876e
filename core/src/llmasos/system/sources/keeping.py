"""Stores what a source fetches in the store of its context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmasos.system.store import Store
from llmasos_hookspecs import Context, ModelStore, SourceError

#: Fills a folder, and returns the exact source and the licence, which it learns on the way.
Fill = Callable[[Path], tuple[str, str]]


def keep(store: ModelStore, key: str, fill: Fill, waiting: Callable[[], None] | None = None) -> Path:
    """Fill and store the entry ``key``, unless it exists. ``waiting`` is called where another process fills it."""
    if isinstance(store, Store):
        return store.fetch(key, fill, waiting=waiting).path

    def plain(folder: Path) -> None:
        fill(folder)

    return store.add(key, plain, source=key)


def keep_fetched(context: Context, key: str, fill: Fill) -> Path:
    """What the store has under ``key``, else what ``fill`` fetches over the network. Raises ``SourceError`` where that may not be used."""
    found = context.store.find(key)
    if found is not None:
        return found
    if context.offline:
        raise SourceError(f"{key} is not in the model store, and this run is offline; run llmasos models pull {key} first.")
    return keep(context.store, key, fill, lambda: context.note(f"Another process is fetching {key}; waiting for it."))

"""Where the graphs of a checkpoint are: built in a cache folder, or in memory where nothing of it may touch the disk in the clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmasos_backend_onnx.graph_files import InMemory
from llmasos_backend_onnx.in_parts import packed, unpacked
from llmasos_decoder_kit.artifact import obtain
from llmasos_hookspecs import Checkpoint, Context, is_sealed, sealed_builds

Place = Path | InMemory


def obtain_graphs(
    checkpoint: Checkpoint, context: Context, key: str, write: Callable[[Place], dict[str, Any]]
) -> tuple[Place, dict[str, Any]]:
    """Where ``write`` has put the graphs, now or once before under ``key``, and the plain data that it returned."""
    if is_sealed(checkpoint):
        kept = sealed_builds(checkpoint)
        if kept is not None and (parts := kept.get(key)) is not None:
            return unpacked(parts)
        place = InMemory()
        built = write(place)
        if kept is not None:
            kept.put(key, packed(place, built))
        return place, built
    return obtain(context.cache, key, write, of=checkpoint.path)


def graph_at(place: Place, name: str) -> Path | tuple[InMemory, str]:
    """One of the graphs, as ``open_session`` takes it."""
    return (place, name) if isinstance(place, InMemory) else place / name

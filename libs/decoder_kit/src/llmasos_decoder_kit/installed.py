"""What packages offer to loaders by entry points, so that neither knows the other."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from llmasos_hookspecs import ConfigError, PluginError


def find_installed(group: str, wanted: str) -> Any:
    """What is offered under ``wanted``, a name in a group of entry points that name classes without arguments; with "auto" the first whose
    ``refusal()`` is None, or None.

    Raises:
        ConfigError: nothing of that name is installed, or an environment variable asks for what the machine does not have.
        PluginError: it cannot be imported.
    """
    points = _points(group, _folders())
    if wanted != "auto":
        if wanted not in points:
            known = ", ".join(sorted(points)) or "none are"
            raise ConfigError(
                f'kernels is "{wanted}", and no installed package offers operators of that name (installed: {known}); '
                f"pip install llmasos-kernels-{wanted.partition('_')[0]}, or leave it at 'auto'.",
                "loader.kernels",
            )
        return _made(points[wanted])
    for name in sorted(points):
        made = _made(points[name])
        if made.refusal() is None:
            return made
    return None


@functools.cache
def _points(group: str, folders: tuple[tuple[str, int], ...]) -> Mapping[str, metadata.EntryPoint]:
    """The entry points of a group, by name; read again where a folder has changed. A file of each installed package is read for them, which
    takes longer than to load a small model."""
    return {point.name: point for point in metadata.entry_points(group=group)}


def _folders() -> tuple[tuple[str, int], ...]:
    """Where packages lie, and when one was last added or removed there."""
    found = []
    for place in sys.path:
        try:
            found.append((place, os.stat(place or os.curdir).st_mtime_ns))
        except OSError:
            continue
    return tuple(found)


def _made(point: metadata.EntryPoint) -> Any:
    try:
        return point.load()()
    except Exception as error:
        raise PluginError(f'The operators "{point.name}" of {point.value} cannot be loaded: {error}; install it again.') from error

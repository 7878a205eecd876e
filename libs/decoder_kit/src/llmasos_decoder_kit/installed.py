"""What packages offer to loaders by entry points, so that neither knows the other."""

from __future__ import annotations

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
    points = {point.name: point for point in metadata.entry_points(group=group)}
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


def _made(point: metadata.EntryPoint) -> Any:
    try:
        return point.load()()
    except Exception as error:
        raise PluginError(f'The operators "{point.name}" of {point.value} cannot be loaded: {error}; install it again.') from error

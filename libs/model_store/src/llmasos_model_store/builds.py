"""What loaders built of models and keep in the cache: listed, removed with their model, and held within a size."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Final

import attrs

from llmasos_hookspecs import KINDS
from llmasos_model_store.folders import cache_folder
from llmasos_model_store.store import bytes_below

#: In the folder of a build: which models' files it was built of, ``{"paths": [...]}``. Loaders that keep builds write it.
OF: Final = "of.json"
#: Seconds since its last use in which a build is not removed to make room: a process may be opening its files.
_FRESH: Final = 600.0


@attrs.frozen(kw_only=True)
class Build:
    """One folder that a loader built. ``models`` are the files or folders it was built of; ``used`` is when, in seconds since the epoch."""

    path: Path
    loader: str
    size: int
    used: float
    models: tuple[Path, ...]

    def of(self, place: Path) -> bool:
        """Whether it was built of a model at a place or below it, and of no model elsewhere that is still there."""
        place = place.resolve()
        inside = [each for each in self.models if each.is_relative_to(place)]
        return bool(inside) and not any(each.exists() for each in self.models if each not in inside)


class Builds:
    """The builds of all loaders, below a folder with one folder a distribution and loader; and those that formats keep of sealed models,
    below one with a folder a format."""

    def __init__(self, root: Path | None = None, sealed: Path | None = None) -> None:
        self._root: Final = root or cache_folder() / KINDS["loader"].plural
        self._sealed: Final = sealed or self._root.with_name(KINDS["format"].plural)

    def all(self) -> tuple[Build, ...]:
        """Every build, the one used longest ago first."""
        return tuple(
            Build(path=path, loader=path.parent.name, size=size, used=used, models=_models(path))
            for used, size, path in ((used, size, Path(place)) for used, size, place in self._sizes())
        )

    def remove(self, place: Path) -> int:
        """Remove the builds of a model at a place or below it; returns the bytes freed."""
        return sum(_remove(build.path) for build in self.all() if build.of(place))

    def trim(self, limit: int, *, older: float = 0.0, fresh: float = _FRESH) -> int:
        """Remove the builds used longest ago until the rest takes at most ``limit`` bytes; returns the bytes freed.

        Args:
            limit: bytes that may stay.
            older: spare what was used in the last so many seconds.
            fresh: spare what was used in the last so many seconds even where more stays then.
        """
        builds, freed = self._sizes(), 0
        total, now = sum(size for _, size, _ in builds), time.time()
        for used, _, place in builds:
            if total - freed <= limit or now - used < max(older, fresh):
                break
            freed += _remove(Path(place))
        return freed

    def _sizes(self) -> list[tuple[float, int, str]]:
        """When each build was used, its bytes, and its folder; the one used longest ago first. Every load asks: it looks at each file once,
        and opens none."""
        sealed = (place for place in _folders(self._sealed, 2) if os.path.lexists(os.path.join(place, OF)))
        found: list[tuple[float, int, str]] = []
        for place in (*_folders(self._root, 3), *sealed):
            if not place.endswith(".partial"):
                with contextlib.suppress(OSError):  # gone meanwhile
                    found.append((*_measured(place), place))
        return sorted(found)


def _folders(folder: str | os.PathLike[str], depth: int) -> list[str]:
    """The folders that are so many levels below a folder."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if entry.is_dir()]
    except OSError:  # there is none, or it is gone meanwhile
        return []
    return found if depth == 1 else [below for each in found for below in _folders(each, depth - 1)]


def _measured(folder: str) -> tuple[float, int]:
    """When a build was used, in seconds since the epoch, and its bytes."""
    with os.scandir(folder) as entries:
        used, size = os.stat(folder).st_mtime, 0
        for entry in entries:
            state = entry.stat(follow_symlinks=False)
            used = max(used, state.st_mtime)
            size += bytes_below(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else state.st_size
    return used, size


def _models(folder: Path) -> tuple[Path, ...]:
    try:
        found = json.loads((folder / OF).read_text(encoding="utf-8"))
        return tuple(Path(each) for each in found["paths"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def _remove(folder: Path) -> int:
    """Remove a build, whole at once for those who look for it; returns the bytes freed."""
    size = bytes_below(folder)
    doomed = folder.with_name(f"{folder.name}.partial")  # which a loader removes before it builds anew
    try:
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
    except OSError:  # a process has its files open (Windows)
        return 0
    shutil.rmtree(doomed, ignore_errors=True)
    return size - bytes_below(doomed)

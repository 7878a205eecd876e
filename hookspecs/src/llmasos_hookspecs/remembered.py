"""Remembers the digests of files that passed a check, between processes: one empty file for each, up to a limit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

#: Files kept; those that were seen longest ago go first.
_MOST: Final = 1000


class Remembered:
    """A folder of digests. Losing it costs a check. A process that can forge an entry can write the user's other files too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, digest: str) -> bool:
        path = self._folder / digest
        try:
            os.utime(path)
        except OSError:
            return path.is_file()  # of a cache that cannot be written
        return True

    def add(self, digest: str) -> None:
        """Remember a digest; a disk that is full or read-only is no reason to fail."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._folder / digest, os.O_CREAT | os.O_WRONLY, 0o600))
            known = list(self._folder.iterdir())
            if len(known) > _MOST:
                for old in sorted(known, key=_seen)[: len(known) - _MOST // 2]:
                    old.unlink(missing_ok=True)


def _seen(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

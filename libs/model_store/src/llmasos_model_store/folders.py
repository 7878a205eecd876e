"""Where LLMasOS keeps what is the user's: config, models, caches."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Final

_APPLICATION: Final = "llmasos"


def config_folder() -> Path:
    """The folder of the user's ``config.toml``."""
    return _below_home("config") or _platform("user_config_dir")


def data_folder() -> Path:
    """The folder of the model store, of aliases and of what tasks keep."""
    return _below_home("data") or _platform("user_data_dir")


def cache_folder() -> Path:
    """The folder of what can be made again."""
    return _below_home("cache") or _platform("user_cache_dir")


def working_cache_folder() -> Path:
    """``cache_folder``, or, where nothing can be written there, a folder that lasts as long as the process; the user is told."""
    return _working(cache_folder())


@functools.cache
def _working(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # asks the file system itself: access bits say nothing of read-only mounts
            return folder
    except OSError as error:
        substitute = Path(tempfile.mkdtemp(prefix=f"{_APPLICATION}-cache-"))
        atexit.register(shutil.rmtree, substitute, ignore_errors=True)
        warnings.warn(
            f"The cache in {folder} cannot be written ({error.strerror}), so what is built now is built anew next time; set LLMASOS_HOME.",
            UserWarning,
            stacklevel=2,
        )
        return substitute


def _below_home(name: str) -> Path | None:
    home = os.environ.get("LLMASOS_HOME")
    return Path(home).expanduser().absolute() / name if home else None


def _platform(function: str) -> Path:
    import platformdirs

    return Path(getattr(platformdirs, function)(_APPLICATION, appauthor=False))

"""Where LLMasOS keeps what is the user's: config, models, caches."""

from __future__ import annotations

import os
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


def _below_home(name: str) -> Path | None:
    home = os.environ.get("LLMASOS_HOME")
    return Path(home).expanduser().absolute() / name if home else None


def _platform(function: str) -> Path:
    import platformdirs

    return Path(getattr(platformdirs, function)(_APPLICATION, appauthor=False))

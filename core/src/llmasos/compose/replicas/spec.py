"""What a replica is started with."""

from __future__ import annotations

import attrs

from llmasos.system.config import Config


@attrs.frozen(kw_only=True)
class WorkerSpec:
    """What a replica serves: a config with one model, and the cores that it may use (empty: all)."""

    config: Config
    cores: tuple[int, ...] = ()
